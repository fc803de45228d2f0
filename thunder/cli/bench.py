"""`thunder bench`: measures compile time and call time of thunder beside eager PyTorch and torch.compile.

Every contender runs every workload in a fresh process with an empty compiler cache, so a first call is what a
user's first call is: it includes loading the compiler. Afterwards all contenders' calls are timed in turns.

Input: workloads and a device.  Output: a table, and with `--json` a file with all figures, the versions and
the machine.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from thunder.cli.contenders import CONTENDERS, EAGER, TORCH_COMPILE, select_contenders
from thunder.cli.machine import describe_machine, describe_versions
from thunder.cli.measurement import Timing, relative_error, time_in_turns
from thunder.cli.texts import format_error, format_ratio, format_seconds
from thunder.cli.worker import ContenderError, Worker
from thunder.cli.workloads import FIGURES, Results, Workload, select_workloads

ROUNDS = 25


@dataclass
class Measurement:
    """One contender on one workload; times in seconds, the error relative to float64."""

    workload: str
    contender: str
    first_call: float | None = None
    call: Timing | None = None
    error: float | None = None
    failure: str | None = None


def measure(workload: Workload, contenders: list[str], device: str, rounds: int) -> list[Measurement]:
    """Every contender on one workload: first calls one after the other, later calls in turns."""
    measurements = {name: Measurement(workload.name, name) for name in contenders}
    running: dict[str, Worker] = {}
    expected: Results | None = None
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        for number, name in enumerate(contenders):
            worker = stack.enter_context(Worker(name, Path(directory) / str(number)))
            try:
                worker.ask("build", workload.name, device)
                if expected is None:
                    expected = worker.ask("truth")
                first = worker.ask("first_call")
            except ContenderError as error:
                measurements[name].failure = str(error)
                continue
            measurements[name].first_call = first.seconds
            measurements[name].error = relative_error(first.results, expected)
            running[name] = worker
        for name, timing in time_in_turns(running, rounds).items():
            if isinstance(timing, ContenderError):
                measurements[name].failure = str(timing)
            else:
                measurements[name].call = timing
    return list(measurements.values())


def result_table(workloads: list[Workload], measurements: list[Measurement]) -> Table:
    """A block a workload, headed by its title; a line a contender."""
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("work, run by", ratio=1)
    for heading in ("first call", "per call", "x eager", "x compile", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for workload in workloads:
        block = [measurement for measurement in measurements if measurement.workload == workload.name]
        medians = {entry.contender: entry.call.median for entry in block if entry.call}
        table.add_row(f"[bold]{escape(workload.title)}[/]")
        for entry in block:
            call = medians.get(entry.contender)
            table.add_row(
                f"  {entry.contender}",
                format_seconds(entry.first_call),
                format_seconds(call),
                format_ratio(call, medians.get(EAGER.name)),
                format_ratio(call, medians.get(TORCH_COMPILE.name)),
                format_error(entry.error),
            )
            if entry.failure:
                table.add_row(f"  [red]{escape(entry.failure)}[/]")
        table.add_section()
    return table


def as_json(device: str, measurements: list[Measurement]) -> dict[str, Any]:
    """All figures with what they were measured on; times in seconds."""
    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "measurements": [asdict(measurement) for measurement in measurements],
    }


def command(
    device: Annotated[str, typer.Option(help="The device that everything runs on: cpu, cuda.")] = "cpu",
    only: Annotated[
        list[str] | None, typer.Option(help="Measure only this workload; may be given several times.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Measure only this contender (beside eager); may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is timed, in turns.")] = ROUNDS,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Measure first calls and later calls beside eager PyTorch and torch.compile."""
    console = Console()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    workloads = select_workloads(FIGURES, only)
    contenders = select_contenders(CONTENDERS.values(), by)
    measurements: list[Measurement] = []
    for workload in track(workloads, "measuring", console=console):
        measurements += measure(workload, contenders, device, rounds)
    console.print(result_table(workloads, measurements))
    console.print(f"{describe_machine()}; {', '.join(f'{k} {v}' for k, v in describe_versions().items())}")
    if json_path is not None:
        json_path.write_text(json.dumps(as_json(device, measurements), indent=2) + "\n")
    if any(measurement.failure for measurement in measurements):
        raise typer.Exit(1)
