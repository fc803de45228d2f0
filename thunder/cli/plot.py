"""A picture of measured times: a group of bars a workload, a bar a contender, relative to eager.

Input: what `thunder bench` measured.  Output: an SVG or PNG file.  Needs matplotlib (`pip install thunder[plot]`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from thunder.cli.contenders import EAGER
from thunder.cli.measurement import Timing
from thunder.cli.workloads import Workload
from thunder.errors import OptionError


class Measured(Protocol):
    """What is drawn of a measurement."""

    workload: str
    contender: str
    call: Timing | None


def check_plotting() -> None:
    """Raises `OptionError` when nothing can be drawn here, before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError("drawing needs matplotlib, which is not installed", remedy="pip install 'thunder[plot]'")


def draw(path: Path, workloads: Sequence[Workload], measurements: Sequence[Measured]) -> None:
    """Writes the picture; the suffix of the path chooses the format."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    times = {(entry.workload, entry.contender): entry.call.median for entry in measurements if entry.call}
    shown = [workload for workload in workloads if (workload.name, EAGER.name) in times]
    contenders = list(dict.fromkeys(entry.contender for entry in measurements))
    height = 0.8 / max(1, len(contenders))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.3 * len(contenders) * max(1, len(shown))))
    for number, contender in enumerate(contenders):
        rows = [
            (index, times[workload.name, contender] / times[workload.name, EAGER.name])
            for index, workload in enumerate(shown)
            if (workload.name, contender) in times
        ]
        positions = [index + (number - (len(contenders) - 1) / 2) * height for index, _ in rows]
        axes.barh(positions, [ratio for _, ratio in rows], height, label=contender)
    axes.set_yticks(range(len(shown)), [workload.title for workload in shown])
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.5)
    axes.set_xlabel("time of a call, relative to eager (less is better)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
