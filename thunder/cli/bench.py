"""`thunder bench`: measures compile time and call time of thunder beside eager PyTorch and torch.compile.

Every contender runs every workload in a fresh process with an empty compiler cache, so a first call is what a
user's first call is: it includes loading the compiler. Afterwards all contenders' calls are timed in turns.

Input: workloads and a device.  Output: a table, and with `--json` a file with all figures, the versions and
the machine.  Invariant: the file holds whatever is known so far, from the first answer on, so that a run that is
ended keeps it.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
from thunder.cli.worker import ContenderError, Worker, answers
from thunder.cli.workloads import FIGURES, Results, Workload, select_workloads
from thunder.errors import unknown_name

ROUNDS = 25
LIMIT = 300.0  # seconds


@dataclass
class Measurement:
    """One contender on one workload; times in seconds, memory in bytes.

    The error is relative to the workload's truth (`Workload.truth`); the floor is the time that the step's work takes
    at the device's measured bandwidth and rate, the same for all contenders.  Where no process could compute these
    two, `no_reference` says why.
    """

    workload: str
    contender: str
    first_call: float | None = None
    call: Timing | None = None
    error: float | None = None
    peak_memory: int | None = None
    floor: float | None = None
    failure: str | None = None
    no_reference: str | None = None


@dataclass(frozen=True)
class Settings:
    """How things are measured.

    Attributes:
        rounds: how often each contender is timed, in turns.
        limit: seconds that a contender may take for anything, such as a first call, before it is given up.
        at_once: first calls run side by side, those of all workloads: a run with several slow compilers takes as
            long as the slowest of them, and the times of first calls are those of a busy machine.
    """

    rounds: int = ROUNDS
    limit: float = LIMIT
    at_once: bool = False


def measure(
    workload: Workload,
    contenders: list[str],
    device: str,
    settings: Settings,
    report: Callable[[list[Measurement]], None] = lambda measurements: None,
    undisturbed: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Measurement]:
    """Every contender on one workload: models are built side by side, first calls follow, then calls in turns.

    `report` is given what is known after every step, so that nothing is lost when time runs out.  Calls are timed
    within `undisturbed()`.
    """
    measurements = [Measurement(workload.name, name) for name in contenders]
    by_name = {measurement.contender: measurement for measurement in measurements}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))

        def start(name: str, folder: str) -> Worker:
            worker = stack.enter_context(Worker(name, directory / folder, settings.limit))
            worker.send("build", workload.name, device)
            return worker

        reference = start(EAGER.name, "reference")
        workers = {name: start(name, str(number)) for number, name in enumerate(contenders)}
        running: dict[str, Worker] = {}
        for name, answer in answers(workers):
            if isinstance(answer, ContenderError):
                by_name[name].failure = str(answer)
            else:
                running[name] = workers[name]
        expected = use_reference(reference, measurements)
        report(measurements)
        names = [name for name in contenders if name in running]
        for group in [names] if settings.at_once else [[name] for name in names]:
            for name in group:
                running[name].send("first_call")
            for name, answer in answers({name: running[name] for name in group}):
                if isinstance(answer, ContenderError):
                    by_name[name].failure = str(answer)
                    del running[name]
                else:
                    by_name[name].first_call = answer.seconds
                    by_name[name].error = relative_error(answer.results, expected) if expected else None
                report(measurements)
            for name in [name for name in group if name in running]:
                try:
                    by_name[name].peak_memory = running[name].ask("peak_memory")
                    running[name].ask("rest")
                except ContenderError as error:
                    by_name[name].failure = str(error)
                    del running[name]

        def note(outcomes: Mapping[str, Timing | ContenderError]) -> None:
            for name, outcome in outcomes.items():
                if isinstance(outcome, ContenderError):
                    by_name[name].failure = str(outcome)
                else:
                    by_name[name].call = outcome
            report(measurements)

        with undisturbed():
            note(time_in_turns(running, settings.rounds, report=note))
    return measurements


def measure_at_once(
    workloads: list[Workload],
    contenders: dict[str, list[str]],
    device: str,
    settings: Settings,
    report: Callable[[list[Measurement]], None],
) -> list[Measurement]:
    """`measure` for several workloads side by side; calls are timed one workload after the other, after all else."""
    everyone_is_ready = threading.Barrier(len(workloads))
    one_at_a_time, reporting = threading.Lock(), threading.Lock()
    known: dict[str, list[Measurement]] = {}

    @contextmanager
    def undisturbed() -> Iterator[None]:
        everyone_is_ready.wait()
        with one_at_a_time:
            yield

    def run(workload: Workload) -> list[Measurement]:
        def note(current: list[Measurement]) -> None:
            with reporting:
                known[workload.name] = current
                report([entry for name in contenders for entry in known.get(name, [])])

        try:
            return measure(workload, contenders[workload.name], device, settings, note, undisturbed)
        except BaseException:  # whatever it is goes on; the others are not to wait for this workload
            everyone_is_ready.abort()
            raise

    with ThreadPoolExecutor(len(workloads)) as pool:
        return [entry for found in pool.map(run, workloads) for entry in found]


def use_reference(reference: Worker, measurements: list[Measurement]) -> Results | None:
    """What a step computes in a high precision; the measurements are told how long its work takes at least.

    A process of its own does this, so that no contender's first call finds a device that was used before, and ends,
    so that its memory is free for them.
    """
    expected: Results | None = None
    try:
        reference.receive()
        expected = reference.ask("truth")
        floor = reference.ask("ceilings").floor(reference.ask("work"))
    except ContenderError as error:
        for measurement in measurements:
            measurement.no_reference = str(error)
    else:
        for measurement in measurements:
            measurement.floor = floor
    reference.close()
    return expected


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
        if block and block[0].no_reference:
            table.add_row(f"  [red]no reference: {escape(block[0].no_reference)}[/]")
        table.add_section()
    return table


def as_json(device: str, measurements: list[Measurement], at_once: bool = False) -> dict[str, Any]:
    """All figures with what they were measured on; times in seconds."""
    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device,
        "first_calls": "at once" if at_once else "in turn",
        "machine": describe_machine(),
        "versions": describe_versions(),
        "measurements": [asdict(measurement) for measurement in measurements],
    }


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Replaces the file as a whole: whoever ends the run finds the figures of before or those of now."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(figures, indent=2) + "\n")
    partial.replace(path)


def command(
    device: Annotated[str, typer.Option(help="The device that everything runs on: cpu, cuda.")] = "cpu",
    only: Annotated[
        list[str] | None, typer.Option(help="Measure only this workload; may be given several times.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Measure only this contender; may be given several times.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is timed, in turns.")] = ROUNDS,
    limit: Annotated[
        float, typer.Option(min=1.0, help="Seconds after which a contender is given up that does not answer.")
    ] = LIMIT,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Run first calls side by side: sooner done, their times not comparable.")
    ] = False,
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
    settings = Settings(rounds, limit, at_once)
    measurements: list[Measurement] = []

    def report(current: list[Measurement]) -> None:
        if json_path is not None:
            write_json(json_path, as_json(device, measurements + current, at_once))

    names = {
        workload.name: [name for name in contenders if CONTENDERS[name].applies(device, workload.kind)]
        for workload in workloads
    }
    if at_once:
        measurements = measure_at_once(workloads, names, device, settings, report)
    else:
        for workload in track(workloads, "measuring", console=console):
            measurements += measure(workload, names[workload.name], device, settings, report)
    console.print(result_table(workloads, measurements))
    console.print(f"{describe_machine()}; {', '.join(f'{k} {v}' for k, v in describe_versions().items())}")
    if plot is not None:
        draw(plot, workloads, measurements)
    if any(measurement.failure or measurement.no_reference for measurement in measurements):
        raise typer.Exit(1)


def suites(device: str, names: list[str] | None) -> tuple[Workload, ...]:
    """The workloads of the named suites; those of `models` are small on the CPU."""
    known = {"figures": FIGURES, "models": large_workloads(SMALL if device == "cpu" else FULL)}
    for name in names or []:
        if name not in known:
            raise unknown_name("suite", name, list(known))
    return tuple(workload for name in names or known for workload in known[name])
