"""Rows run in processes of their own: whatever a case does, the row has a result, and the next case is run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from thunder.coverage import device
from thunder.coverage.outcomes import Status
from thunder.coverage.recorder import NotRunnableInEager, Recorder, WrongResult
from thunder.coverage.server import Rows
from thunder.coverage.subjects import Eager, Subject
from thunder.coverage.suite import Suite
from thunder.coverage.suites.programs import ProgramsSuite


class Behaviours(Suite):
    """A suite whose cases do what their names say."""

    name = "behaviours"

    def row_names(self) -> Sequence[str]:
        return ["ok"]

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        for action in row.split():
            if recorder.skips_next():
                continue
            with recorder.case("act", action):
                act(action)


def act(action: str) -> None:
    """One behaviour."""
    if action == "error":
        raise TypeError("first line\nsecond line")
    if action == "wrong":
        raise WrongResult("values differ", 0.5)
    if action == "absent":
        raise NotRunnableInEager("eager refuses")
    if action == "lost":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if action == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if action == "exit":
        os._exit(3)
    if action == "hang":
        time.sleep(60)


def run(row: str, **limits: Any) -> list[tuple[str, Status]]:
    """The cases that are not ok."""
    job = {"row": row, "row_timeout": 20.0, "case_timeout": 5.0, "memory": 0, "phases": [], **limits}
    result = Rows(Behaviours(), Eager()).run(job)
    counts = result.phases["act"].counts
    found = [(failure.case, failure.status) for failure in result.phases["act"].failures]
    assert sum(counts.values()) == len(found) + counts.get(Status.OK, 0)
    return found


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("error", Status.ERROR),
        ("wrong", Status.WRONG),
        ("absent", Status.NOT_RUNNABLE),
        ("crash", Status.CRASH),
        ("exit", Status.CRASH),
    ],
)
def test_a_case_ends_in_its_status_and_the_next_one_runs(action, status):
    assert run(f"ok {action} error") == [(action, status), ("error", Status.ERROR)]


def test_after_an_error_that_a_device_does_not_survive_a_new_process_goes_on():
    assert run("lost error lost") == [("lost", Status.ERROR), ("error", Status.ERROR), ("lost", Status.ERROR)]


def test_rows_run_in_processes_started_afresh_where_a_fork_would_not_do(monkeypatch):
    monkeypatch.setattr(device, "survives_fork", lambda name: False)
    job = {"row": "00100-00103", "row_timeout": 300.0, "case_timeout": None, "memory": 0, "phases": ["values"]}
    result = Rows(ProgramsSuite(), Eager()).run(job)
    assert result.phases["values"].counts == {Status.OK: 4}


def test_a_hanging_case_is_ended_and_the_next_one_runs():
    started = time.monotonic()
    assert run("hang error", case_timeout=0.3) == [("hang", Status.TIMEOUT), ("error", Status.ERROR)]
    assert time.monotonic() - started < 10


def test_a_row_ends_at_its_limit():
    assert run("ok hang error", row_timeout=0.3, case_timeout=None) == [("hang", Status.TIMEOUT)]


def test_the_first_line_and_the_users_line_are_kept():
    job = {"row": "error", "row_timeout": 20.0, "case_timeout": None, "memory": 0, "phases": []}
    (failure,) = Rows(Behaviours(), Eager()).run(job).phases["act"].failures
    assert failure.summary == "TypeError: first line"
    assert "test_server.py" in failure.location and failure.location.endswith(" act")
    assert failure.traceback.startswith("Traceback") and 'raise TypeError("first line' in failure.traceback


def test_a_crash_names_its_signal():
    job = {"row": "crash", "row_timeout": 20.0, "case_timeout": None, "memory": 0, "phases": []}
    (failure,) = Rows(Behaviours(), Eager()).run(job).phases["act"].failures
    assert failure.error_class == "SIGSEGV"
    assert "Segmentation fault" in failure.message


def test_rows_of_one_process_and_a_new_one_after_a_crash():
    class Few(Behaviours):
        rows_of_a_process = 2

        def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
            recorder.note(process=os.getpid())
            super().run_row(row, subject, recorder)

    rows = Rows(Few(), Eager())
    job = {"row_timeout": 20.0, "case_timeout": None, "memory": 0, "phases": []}
    results = [rows.run({**job, "row": row}) for row in ("ok", "error ok", "ok", "crash ok", "ok")]
    rows.end()
    processes = [result.notes["process"] for result in results]
    assert processes[0] == processes[1] != processes[2] == processes[3] != processes[4]
    statuses = [result.phases["act"].status for result in results]
    assert statuses == [Status.OK, Status.ERROR, Status.OK, Status.CRASH, Status.OK]
