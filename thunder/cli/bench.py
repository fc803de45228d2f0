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
from thunder.cli.large_workloads import FULL, SMALL, large_workloads
from thunder.cli.machine import describe_machine, describe_versions
from thunder.cli.measurement import Timing, relative_error, time_in_turns
from thunder.cli.plot import check_plotting, draw
from thunder.cli.texts import format_bytes, format_error, format_ratio, format_seconds
from thunder.cli.worker import ContenderError, Worker
from thunder.cli.workloads import FIGURES, Results, Workload, select_workloads
from thunder.errors import unknown_name

ROUNDS = 25
LIMIT = 300.0  # seconds


@dataclass
class Measurement:
    """One contender on one workload; times in seconds, memory in bytes.

    The error is relative to the workload's truth (`Workload.truth`); the floor is the time that the step's work takes
    at the device's measured bandwidth and rate, the same for all contenders.
    """

    workload: str
    contender: str
    first_call: float | None = None
    call: Timing | None = None
    error: float | None = None
    peak_memory: int | None = None
    floor: float | None = None
    failure: str | None = None


def measure(
    workload: Workload, contenders: list[str], device: str, rounds: int, limit: float = LIMIT
) -> list[Measurement]:
    """Every contender on one workload: first calls one after the other, later calls in turns.

    What takes a contender longer than `limit` seconds, such as a first call, ends it; the others go on.
    """
    measurements = {name: Measurement(workload.name, name) for name in contenders}
    running: dict[str, Worker] = {}
    expected: Results | None = None
    floor: float | None = None
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        for number, name in enumerate(contenders):
            worker = stack.enter_context(Worker(name, Path(directory) / str(number), limit))
            try:
                worker.ask("build", workload.name, device)
                if expected is None:
                    expected = worker.ask("truth")
                first = worker.ask("first_call")
                if floor is None and name == EAGER.name:
                    floor = worker.ask("ceilings").floor(worker.ask("work"))
                measurements[name].peak_memory = worker.ask("peak_memory")
                worker.ask("rest")
            except ContenderError as error:
                measurements[name].failure = str(error)
                continue
            measurements[name].first_call = first.seconds
            measurements[name].error = relative_error(first.results, expected) if expected else None
            running[name] = worker
        for name, timing in time_in_turns(running, rounds).items():
            if isinstance(timing, ContenderError):
                measurements[name].failure = str(timing)
            else:
                measurements[name].call = timing
    for measurement in measurements.values():
        measurement.floor = floor
    return list(measurements.values())


def result_table(workloads: list[Workload], measurements: list[Measurement]) -> Table:
    """A block a workload, headed by its title; a line a contender."""
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("work, run by", ratio=1, min_width=22)
    for heading in ("first call", "per call", "x eager", "x compile", "x floor", "memory", "error"):
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
                format_ratio(call, entry.floor),
                format_bytes(entry.peak_memory),
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
    limit: Annotated[
        float, typer.Option(min=1.0, help="Seconds after which a contender is given up that does not answer.")
    ] = LIMIT,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="figures: the README's table; models: large models and single regions. Both by default."),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the times into this file (.svg or .png).")] = None,
) -> None:
    """Measure first calls and later calls beside eager PyTorch and torch.compile."""
    console = Console()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    workloads = select_workloads(suites(device, suite), only)
    contenders = select_contenders(CONTENDERS.values(), by)
    if plot is not None:
        check_plotting()
    measurements: list[Measurement] = []
    for workload in track(workloads, "measuring", console=console):
        names = [name for name in contenders if CONTENDERS[name].applies(device, workload.kind)]
        measurements += measure(workload, names, device, rounds, limit)
        if json_path is not None:  # after each workload: an interrupted run keeps what it has
            json_path.write_text(json.dumps(as_json(device, measurements), indent=2) + "\n")
    console.print(result_table(workloads, measurements))
    console.print(f"{describe_machine()}; {', '.join(f'{k} {v}' for k, v in describe_versions().items())}")
    if plot is not None:
        draw(plot, workloads, measurements)
    if any(measurement.failure for measurement in measurements):
        raise typer.Exit(1)


def suites(device: str, names: list[str] | None) -> tuple[Workload, ...]:
    """The workloads of the named suites; those of `models` are small on the CPU."""
    known = {"figures": FIGURES, "models": large_workloads(SMALL if device == "cpu" else FULL)}
    for name in names or []:
        if name not in known:
            raise unknown_name("suite", name, list(known))
    return tuple(workload for name in names or known for workload in known[name])
