"""Runs many programs and sums up: `run_seeds`.

Input: seeds.  Output: a `Summary` with every failure's seed and explanation.
"""

from __future__ import annotations

import collections
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.acquire.fuzz.generator import generate
from tests.acquire.fuzz.program import GeneratedProgram
from tests.acquire.fuzz.subjects import REFUSALS, with_thunder
from tests.acquire.fuzz.worlds import DIFFERENT, Compile, Outcome, run_program


@dataclass
class Summary:
    """What became of many programs."""

    programs: int = 0
    calls: int = 0
    exceptions: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)
    refusals: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, seed: int, outcome: Outcome) -> None:
        self.programs += 1
        self.calls += outcome.calls
        self.exceptions += outcome.exceptions
        self.refused += bool(outcome.refusals)
        for refusal in set(outcome.refusals):
            self.refusals[refusal.splitlines()[0]] += 1
        if outcome.status == DIFFERENT:
            self.failures.append((seed, outcome.explanation))

    def plus(self, other: Summary) -> Summary:
        """The sums of both."""
        return Summary(
            self.programs + other.programs,
            self.calls + other.calls,
            self.exceptions + other.exceptions,
            self.refused + other.refused,
            self.seconds + other.seconds,
            self.failures + other.failures,
            self.refusals + other.refusals,
        )

    def __str__(self) -> str:
        each = self.seconds / max(self.programs, 1) * 1000
        return (
            f"{self.programs} programs, {self.calls} calls compared ({self.exceptions} raised), "
            f"{len(self.failures)} failures, {self.refused} programs refused, {each:.0f} ms a program"
        )


def check(source: str, compile_subject: Compile = with_thunder) -> Outcome:
    """Runs one program; warnings of the program are not the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_program(source, compile_subject, REFUSALS)


def check_seed(seed: int, compile_subject: Compile = with_thunder) -> tuple[GeneratedProgram, Outcome]:
    """Generates and runs the program of one seed."""
    program = generate(seed)
    return program, check(program.source(), compile_subject)


def run_seeds(
    seeds: Iterable[int],
    compile_subject: Compile = with_thunder,
    *,
    stop_at: int | None = None,
    report: Callable[[Summary], bool] = lambda summary: True,
) -> Summary:
    """Runs the programs of many seeds.

    Args:
        seeds: which.
        compile_subject: what the second world calls.
        stop_at: number of failures after which to stop.
        report: called after every program; answers whether to go on.
    """
    summary = Summary()
    start = time.perf_counter()
    for seed in seeds:
        _, outcome = check_seed(seed, compile_subject)
        summary.add(seed, outcome)
        summary.seconds = time.perf_counter() - start
        if not report(summary):
            break
        if stop_at is not None and len(summary.failures) >= stop_at:
            break
    return summary
