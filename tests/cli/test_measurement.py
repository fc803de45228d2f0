"""Times taken in turns, and distances from the truth."""

from __future__ import annotations

import math

import numpy
import pytest

from thunder.cli.measurement import Timing, allowed_error, relative_error, time_in_turns
from thunder.cli.worker import ContenderError


class Clockwork:
    """Stands in for a worker: answers `time_calls` with given seconds, and notes who was asked when."""

    def __init__(self, name, seconds, asked, fails_at=None):
        self.name, self.seconds, self.asked, self.fails_at = name, seconds, asked, fails_at

    def ask(self, method, count):
        assert method == "time_calls"
        self.asked.append((self.name, count))
        if self.fails_at is not None and len([who for who, _ in self.asked if who == self.name]) > self.fails_at:
            raise ContenderError("broke")
        return self.seconds


def test_every_round_times_every_contender_once():
    asked = []
    workers = {"fast": Clockwork("fast", 1e-3, asked), "slow": Clockwork("slow", 1.0, asked)}
    timings = time_in_turns(workers, rounds=4, round_seconds=0.05)
    assert timings["fast"].median == 1e-3 and timings["slow"].median == 1.0
    assert asked[:6] == [("fast", 1)] * 4 + [("fast", 10), ("fast", 50)]  # how many calls fill a round
    assert asked[6:8] == [("slow", 1)] * 2
    assert asked[8:] == [("fast", 50), ("slow", 1)] * 4


def test_calls_that_are_captured_do_not_count_as_slow():
    class Capturing(Clockwork):
        def ask(self, method, count):
            seconds = super().ask(method, count)
            return 0.2 if len(self.asked) < 3 else seconds

    asked = []
    time_in_turns({"one": Capturing("one", 0.01, asked)}, rounds=1, round_seconds=0.05)
    assert asked[-1] == ("one", 5)


@pytest.mark.parametrize("fails_at", [0, 3, 5])
def test_a_contender_that_fails_does_not_stop_the_others(fails_at):
    asked = []
    workers = {"bad": Clockwork("bad", 1e-3, asked, fails_at), "good": Clockwork("good", 1e-3, asked)}
    outcomes = time_in_turns(workers, rounds=4)
    assert isinstance(outcomes["bad"], ContenderError)
    assert outcomes["good"] == Timing(1e-3, 1e-3, 1e-3, 1e-3, rounds=4)


def test_timing_is_the_median_with_its_quartiles():
    timing = Timing.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert timing.median == 3.0 and timing.least == 1.0
    assert timing.lower <= timing.median <= timing.upper
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 2.0, 1)


def arrays(**values):
    return {name: numpy.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        (arrays(a=[3.0, 4.0]), arrays(a=[3.0, 4.0]), 0.0),
        (arrays(a=[3.0, 5.0]), arrays(a=[3.0, 4.0]), 0.2),
        (arrays(a=[1.0], b=[1.5]), arrays(a=[1.0], b=[1.0]), 0.5),
        (arrays(a=[1.0, 2.0]), arrays(a=[1.0]), math.inf),
        (arrays(a=[math.nan]), arrays(a=[1.0]), math.inf),
        (arrays(tokens=[1, 2]), arrays(tokens=[1, 2]), 0.0),
        (arrays(tokens=[1, 2]), arrays(tokens=[1, 3]), math.inf),
    ],
)
def test_relative_error(found, expected, error):
    assert relative_error(found, expected) == pytest.approx(error)


def test_allowed_error_follows_eagers():
    assert allowed_error(1e-4) == pytest.approx(4e-4)
    assert allowed_error(0.0) > 0
