"""Outcomes are counted once, survive JSON, and give rates in which only what eager runs counts."""

from __future__ import annotations

import json

from thunder.coverage.outcomes import KEPT_FAILURES, Outcome, PhaseResult, RowResult, Status, rates


def row(*outcomes: Outcome) -> RowResult:
    result = RowResult("suite", "row", "subject", notes={"class": "Model"})
    for outcome in outcomes:
        result.add(outcome)
    return result


def test_rates_leave_out_what_eager_cannot_run():
    ok, error = Outcome("forward", "a", Status.OK), Outcome("forward", "b", Status.ERROR, error_class="TypeError")
    absent = Outcome("forward", "c", Status.NOT_RUNNABLE, message="no such library")
    (rate,) = rates([row(ok, error, absent), row(ok)])
    assert (rate.passed, rate.failed, rate.not_runnable) == (2, 1, 1)
    assert rate.fraction == 2 / 3


def test_a_row_survives_json():
    wrong = Outcome("backward", "x", Status.WRONG, 0.5, message="gradient differs", max_error=0.25, location="m.py:3 f")
    original = row(Outcome("forward", "", Status.OK, 0.125), wrong)
    assert RowResult.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_the_worst_case_is_the_phase():
    phase = PhaseResult()
    for status, expected in (
        (Status.NOT_RUNNABLE, Status.NOT_RUNNABLE),
        (Status.OK, Status.OK),
        (Status.ERROR, Status.ERROR),
        (Status.WRONG, Status.WRONG),
        (Status.CRASH, Status.CRASH),
    ):
        phase.add(Outcome("p", "", status))
        assert phase.status is expected


def test_counts_stay_complete_when_details_are_dropped():
    phase = PhaseResult()
    for index in range(KEPT_FAILURES + 5):
        phase.add(Outcome("p", str(index), Status.ERROR))
    assert phase.failed == KEPT_FAILURES + 5
    assert len(phase.failures) == KEPT_FAILURES
