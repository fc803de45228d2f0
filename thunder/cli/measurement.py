"""What is made of the contenders' answers: times of calls taken in turns, and distances from the truth.

Input: workers that hold a compiled model.  Output: `Timing` (seconds) and relative errors (dimensionless).
Invariant: a contender's calls are never timed alone; each round times all contenders once, in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import numpy

from thunder.cli.worker import ContenderError, Results, Worker

# A result may be this many times as far from the float64 truth as eager PyTorch's is. The floor is what eager
# itself reaches by luck on short programs: a few roundings of float32.
ERROR_FACTOR = 4.0
ERROR_FLOOR = 1e-6

ROUND_SECONDS = 0.05
SETTLING_CALLS, SETTLING_SECONDS = 4, 1.0


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median over the rounds, the quartiles, and the least."""

    median: float
    lower: float
    upper: float
    least: float
    rounds: int

    @staticmethod
    def of(samples: Sequence[float]) -> Timing:
        lower, middle, upper = quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
        return Timing(middle, lower, upper, min(samples), len(samples))


def time_in_turns(
    workers: Mapping[str, Worker],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
    report: Callable[[dict[str, Timing | ContenderError]], None] = lambda outcomes: None,
) -> dict[str, Timing | ContenderError]:
    """The time of a call for each worker; each round calls every worker for about `round_seconds`.

    `report` is given what is known after each round.
    """
    outcomes: dict[str, Timing | ContenderError] = {}
    counts: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in workers}
    for name, worker in workers.items():
        try:
            counts[name] = calls_in(worker, round_seconds)
        except ContenderError as error:
            outcomes[name] = error
    for _ in range(rounds):
        for name, count in list(counts.items()):
            try:
                samples[name].append(workers[name].ask("time_calls", count))
            except ContenderError as error:
                outcomes[name] = error
                del counts[name]
        outcomes.update({name: Timing.of(samples[name]) for name in counts})
        report(dict(outcomes))
    return outcomes


def calls_in(worker: Worker, seconds: float) -> int:
    """How many calls take about `seconds`, and at least one.

    Single calls of a process that has just woken are many times slower than those after them, and so are calls that
    are being captured in graphs.  So the first ones say little, and the number is found by calling more often until the
    calls take about as long as asked for.
    """
    once, spent = math.inf, 0.0
    for _ in range(SETTLING_CALLS):
        taken: float = worker.ask("time_calls", 1)
        once, spent = min(once, taken), spent + taken
        if spent > SETTLING_SECONDS:
            break
    count = 1
    while True:
        fitting = max(1, int(seconds / once))
        if fitting <= 2 * count:
            return fitting
        count = min(fitting, 10 * count)
        once = worker.ask("time_calls", count)


def relative_error(found: Results, expected: Results) -> float:
    """The largest over the results of |found - expected| / |expected|, both as Euclidean norms in float64.

    Results that are whole numbers (tokens) count as infinitely far apart unless they are equal.
    """
    worst = 0.0
    for name, right in expected.items():
        left = found[name]
        if left.shape != right.shape:
            return math.inf
        if not numpy.issubdtype(right.dtype, numpy.floating):
            worst = max(worst, 0.0 if numpy.array_equal(left, right) else math.inf)
            continue
        difference = float(numpy.linalg.norm(_wide(left) - _wide(right)))
        error = difference / max(float(numpy.linalg.norm(_wide(right))), 1e-300)
        worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst


def _wide(array: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    return array.astype(numpy.float64).ravel()


def allowed_error(error_of_eager: float) -> float:
    """How far from the truth a compiled result may be, given how far eager's is."""
    return max(ERROR_FACTOR * error_of_eager, ERROR_FLOOR)
