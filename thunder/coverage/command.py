"""The command `thunder coverage`: choose suites, run them with a progress bar, write the table in three forms."""

from __future__ import annotations

import signal
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from thunder.coverage.device import check_device
from thunder.coverage.outcomes import RowResult
from thunder.coverage.registry import SUITE_NAMES, check_suite_name
from thunder.coverage.report import failure_table, html_page, json_document, rate_table
from thunder.coverage.runner import Plan, Run, list_rows

PEER = "dynamo"


class SubjectName(str, Enum):
    """What can be tested."""

    thunder = "thunder"
    thunder_eager = "thunder-eager"
    thunder_lowered = "thunder-lowered"
    dynamo = "dynamo"
    eager = "eager"


def coverage(
    suite: Annotated[
        list[str] | None, typer.Option(help=f"Suites to run: {', '.join(SUITE_NAMES)}; all by default.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Rows to run, by name or pattern; may be repeated or hold commas.")
    ] = None,
    phase: Annotated[list[str] | None, typer.Option(help="Phases to run, such as forward; all by default.")] = None,
    subject: Annotated[list[SubjectName] | None, typer.Option(help="What to test; may be repeated.")] = None,
    peer: Annotated[bool, typer.Option(help='Run torch.compile(fullgraph=True, backend="eager") beside it.')] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Rows that run at a time.")] = 1,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds a row may take, instead of the suite's own limit.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows of a suite, evenly spaced.")] = None,
    memory: Annotated[float, typer.Option(help="GiB of address space a row may use; 0 for no limit.")] = 12.0,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the output directory.")] = False,
    output: Annotated[Path, typer.Option(help="Directory of rows.jsonl, coverage.json and coverage.html.")] = Path(
        "coverage-results"
    ),
    device: Annotated[str, typer.Option(help="Where models, inputs and compiled functions are: cpu or cuda.")] = "cpu",
    stop_after: Annotated[
        float | None,
        typer.Option(
            help="End after so many seconds, with a table of the rows that have ended, taken in random order."
        ),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Print the names of the rows and stop.")] = False,
) -> None:
    """Run models, operators and random programs, each in its own process, and compare with plain PyTorch."""
    console = Console()
    suites = [check_suite_name(name) for name in (split(suite) or SUITE_NAMES)]
    if list_only:
        for name in suites:
            for row in list_rows(name):
                console.out(f"{name} {row}", highlight=False)
        return
    subjects = [chosen.value for chosen in (subject or [SubjectName.thunder])]
    if peer and PEER not in subjects:
        subjects.append(PEER)
    plan = Plan(
        suites,
        subjects,
        output,
        split(only),
        split(phase),
        limit,
        jobs,
        timeout,
        memory,
        resume,
        check_device(device),
        stop_after,
    )
    run = Run(plan)
    signal.signal(signal.SIGTERM, lambda number, frame: run.stop())  # a time limit from outside ends the run cleanly
    rows = execute(run, console)
    (output / "coverage.json").write_text(json_document(rows, run.versions))
    (output / "coverage.html").write_text(html_page(rows, run.versions))
    console.print(rate_table(rows))
    console.print(failure_table(rows))
    console.print(f"written: {output / 'coverage.json'}, {output / 'coverage.html'}")


def split(values: list[str] | None) -> list[str]:
    """Option values, those with commas taken apart."""
    return [part for value in values or () for part in value.split(",") if part]


def execute(run: Run, console: Console) -> list[RowResult]:
    """Run with a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[red]{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("rows", total=len(run.tasks), completed=len(run.results), failed=0)
        failed = 0

        def show(result: RowResult) -> None:
            nonlocal failed
            failed += any(phase.failed for phase in result.phases.values())
            progress.update(bar, advance=1, failed=failed, description=f"{result.suite} {result.row} {result.subject}")

        run.on_result = show
        return run.execute()
