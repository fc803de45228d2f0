"""`thunder demo`: compiles real models with thunder, beside eager PyTorch and torch.compile.

For every workload: the time of the first call, the time of later calls (in turns, median), and the distance
of the results from the same computation in float64. Compilers are loaded before the first workload, so a
first call is compilation and one step. A row fails when thunder raises, when its result is further from
float64 than `measurement.allowed_error` says, or when generated tokens differ from eager's; then the exit
status is 1. A peer that fails is shown, and does not count.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from thunder.cli.contenders import EAGER, THUNDER, TORCH_COMPILE, select_contenders
from thunder.cli.inspection import Listing, show_listings
from thunder.cli.machine import describe_machine, describe_versions
from thunder.cli.measurement import Timing, allowed_error, relative_error, time_in_turns
from thunder.cli.texts import format_error, format_ratio, format_seconds
from thunder.cli.worker import ContenderError, Worker
from thunder.cli.workloads import DEMONSTRATION, Workload, select_workloads

CAST = (EAGER, TORCH_COMPILE, THUNDER)
ROUNDS = 5
TRACED_WORKLOAD = "mlp"
LISTED_LINES = 40


@dataclass
class Outcome:
    """What one contender did on one workload; times in seconds, the error relative to float64."""

    contender: str
    first_call: float | None = None
    timing: Timing | None = None
    error: float | None = None
    failure: str = ""
    details: str = ""

    @property
    def seconds_a_call(self) -> float | None:
        return self.timing.median if self.timing else None

    def fail(self, error: ContenderError) -> None:
        self.failure, self.details = str(error), error.details


@dataclass
class Row:
    """A workload and its contenders' outcomes."""

    workload: Workload
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    description: str = ""

    @property
    def failed(self) -> bool:
        return any(outcome.failure for name, outcome in self.outcomes.items() if name != TORCH_COMPILE.name)


class Workers:
    """The contenders' processes; one that died is started again for the next workload."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workers: dict[str, Worker] = {}
        self.started = 0

    def __getitem__(self, contender: str) -> Worker:
        worker = self.workers.get(contender)
        if worker is None or not worker.alive:
            self.started += 1
            worker = Worker(contender, self.directory / str(self.started))
            self.workers[contender] = worker
        return worker

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


@contextmanager
def contender_processes() -> Iterator[Workers]:
    """The contenders' processes, ended when the block ends; their caches go with them."""
    with tempfile.TemporaryDirectory(prefix="thunder-demo-", ignore_cleanup_errors=True) as directory:
        workers = Workers(Path(directory))
        try:
            yield workers
        finally:
            workers.close()


def contenders_of(workload: Workload, contenders: list[str]) -> list[str]:
    """Generation is compared with eager alone: torch.compile takes minutes over it."""
    return [name for name in contenders if workload.kind != "generation" or name != TORCH_COMPILE.name]


def steps_of(workload: Workload, contenders: list[str]) -> int:
    """How often `run_workload` reports progress."""
    return 2 + len(contenders_of(workload, contenders))


def run_workload(
    workload: Workload, contenders: list[str], workers: Workers, rounds: int, report: Callable[[str], None]
) -> Row:
    """Measures one workload with those of the contenders that run it."""
    row = Row(workload)
    expected = None
    report("in float64")
    workers[EAGER.name].ask("build", workload.name, "cpu")
    if workload.kind != "generation":
        expected = workers[EAGER.name].ask("truth")
    for name in contenders_of(workload, contenders):
        report(f"{name}, first call")
        outcome = row.outcomes[name] = Outcome(name)
        try:
            workers[name].ask("build", workload.name, "cpu")
            first = workers[name].ask("first_call")
        except ContenderError as error:
            outcome.fail(error)
            continue
        if name == EAGER.name:
            row.description = workload.describe(first.results)
            expected = first.results if expected is None else expected
        outcome.first_call = first.seconds
        if expected is not None:
            outcome.error = relative_error(first.results, expected)
    report("timing in turns")
    running = {name: workers[name] for name, outcome in row.outcomes.items() if not outcome.failure}
    for name, timing in time_in_turns(running, 3 if workload.kind == "generation" else rounds).items():
        if isinstance(timing, ContenderError):
            row.outcomes[name].fail(timing)
        else:
            row.outcomes[name].timing = timing
    judge(row)
    return row


def listings_of(row: Row, workers: Workers) -> list[Listing]:
    """The programs that thunder made of the current workload; without any, the row fails."""
    try:
        return list(workers[THUNDER.name].ask("listings"))
    except ContenderError as error:
        row.outcomes[THUNDER.name].fail(error)
        return []


def judge(row: Row) -> None:
    """Fails the compiled outcomes that are further from the truth than eager's allows."""
    error_of_eager = row.outcomes[EAGER.name].error
    if error_of_eager is None:
        return
    for outcome in row.outcomes.values():
        if outcome.failure or outcome.error is None:
            continue
        if row.workload.kind == "generation":
            if outcome.error > 0:
                outcome.failure = "the tokens differ from eager's"
        elif outcome.error > allowed_error(error_of_eager):
            outcome.failure = f"error {outcome.error:.1e} (eager {error_of_eager:.1e})"


def result_table(rows: list[Row]) -> Table:
    """The final table: a block a workload, headed by its title; a line a contender."""
    title = "thunder beside eager PyTorch and torch.compile"
    table = Table(title=title, box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("work, run by", ratio=1)
    for heading in ("first call", "per call", "x eager", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        eager = row.outcomes[EAGER.name].seconds_a_call
        table.add_row(f"[bold]{escape(row.workload.title)}[/]")
        if row.description:
            table.add_row(f"[dim]{escape(row.description)}[/]")
        for outcome in row.outcomes.values():
            table.add_row(
                f"  {outcome.contender}",
                format_seconds(outcome.first_call),
                format_seconds(outcome.seconds_a_call),
                format_ratio(outcome.seconds_a_call, eager),
                _accuracy(row, outcome),
                "[red]failed[/]" if outcome.failure else "[green]ok[/]",
            )
            if outcome.failure:
                table.add_row(f"  [red]{escape(outcome.failure)}[/]")
        table.add_section()
    return table


def _accuracy(row: Row, outcome: Outcome) -> str:
    """The error against float64; for generation, whether the tokens are eager's."""
    if row.workload.kind != "generation" or outcome.error is None or outcome.contender == EAGER.name:
        return format_error(outcome.error)
    return "equal" if outcome.error == 0 else "differ"


def as_json(rows: list[Row], seconds: float) -> dict[str, Any]:
    """The table with the machine and the versions, for a file."""
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "seconds": seconds,
        "rows": [
            {
                "workload": row.workload.name,
                "title": row.workload.title,
                "contender": outcome.contender,
                "first_call_seconds": outcome.first_call,
                "call_seconds": outcome.seconds_a_call,
                "relative_error": outcome.error,
                "failure": outcome.failure or None,
            }
            for row in rows
            for outcome in row.outcomes.values()
        ],
    }


def command(
    only: Annotated[list[str] | None, typer.Option(help="Run only this workload; may be given several times.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Run only this contender (beside eager); may be repeated.")
    ] = None,
    traces: Annotated[bool, typer.Option(help="Print the stages of one workload's program.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is timed, in turns.")] = ROUNDS,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
) -> None:
    """Compile real models beside eager PyTorch and torch.compile: times, and errors against float64."""
    console = Console()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    workloads = select_workloads(DEMONSTRATION, only)
    contenders = select_contenders(CAST, [EAGER.name, *by] if by else None)  # errors are judged by eager's
    start = time.perf_counter()
    rows: list[Row] = []
    programs: list[Listing] = []
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    with contender_processes() as workers, progress:
        steps = sum(steps_of(workload, contenders) for workload in workloads)
        bar = progress.add_task("starting", total=len(contenders) + steps)
        for name in contenders:
            progress.update(bar, advance=1, description=f"starting: {name}")
            try:
                workers[name].ask("warm_up")
            except ContenderError as error:
                console.print(f"{name} does not compile a trivial module: {error}", markup=False)
        for workload in workloads:

            def report(text: str, title: str = workload.title) -> None:
                progress.update(bar, advance=1, description=f"{title}: {text}")

            row = run_workload(workload, contenders, workers, rounds, report)
            rows.append(row)
            if traces and workload.name == TRACED_WORKLOAD and THUNDER.name in contenders and not row.failed:
                programs = listings_of(row, workers)
    seconds = time.perf_counter() - start
    if programs:
        console.print(f"\nWhat thunder made of the workload {TRACED_WORKLOAD!r}, stage by stage:\n")
        show_listings(console, programs, LISTED_LINES)
    console.print()
    console.print(result_table(rows))
    if json_path is not None:
        json_path.write_text(json.dumps(as_json(rows, seconds), indent=2) + "\n")
    failures = [(row, outcome) for row in rows for outcome in row.outcomes.values() if outcome.failure]
    for row, outcome in failures:
        heading = f"{row.workload.name}, {outcome.contender}: {outcome.failure}"
        console.rule(escape(heading), style="red", align="left")
        console.print(outcome.details, markup=False, highlight=False)
    good = sum(not row.failed for row in rows)
    console.print(f"{good} of {len(rows)} workloads agree, in {seconds:.0f} s on {describe_machine()}.")
    if good < len(rows):
        raise typer.Exit(1)
