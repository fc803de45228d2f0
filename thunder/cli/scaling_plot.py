"""A picture of how a job scales: the best plan for each number of GPUs.

Input: the best prediction of each mesh.  Output: an SVG or PNG file.  Needs matplotlib (`pip install thunder[plot]`).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from thunder.planning import Job, Mesh, Prediction


def draw_scaling(path: Path, title: str, job: Job, best: Sequence[tuple[Mesh, Prediction]]) -> None:
    """Draws step time and tokens a second of one GPU over the number of GPUs; plans that do not fit are left out."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    shown = [(mesh.size, prediction) for mesh, prediction in best if prediction.fits]
    sizes = [size for size, _ in shown]
    with matplotlib.rc_context({"svg.hashsalt": "thunder", "svg.fonttype": "none"}):
        figure, (times, rates) = pyplot.subplots(1, 2, figsize=(11, 4.2))
        times.loglog(sizes, [prediction.seconds for _, prediction in shown], "o-", label="best plan")
        if shown:
            first, prediction = shown[0]
            times.loglog(sizes, [prediction.seconds * first / size for size in sizes], ":", label="perfect scaling")
        times.set_ylabel("seconds a step")
        times.legend()
        rates.semilogx(sizes, [prediction.tokens_per_second for _, prediction in shown], "o-")
        rates.set_ylabel("tokens a second and GPU")
        rates.set_ylim(bottom=0)
        for number, (size, prediction) in enumerate(shown):
            plan = prediction.plan
            label = f"{plan.describe().replace(', ', chr(10))}\nMFU {prediction.utilisation:.0%}"
            height = 8 if number % 2 else -42
            rates.annotate(
                label, (size, prediction.tokens_per_second), xytext=(0, height), textcoords="offset points",
                fontsize=6, ha="center",
            )  # fmt: skip
        for axes in (times, rates):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xlabel("GPUs")
        figure.suptitle(f"{title}: {job.batch} sequences of {job.sequence} tokens a step (predicted)")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)
