"""What a coverage run finds out: outcomes of cases, gathered per phase, per row and per run.

A *suite* has *rows* (a model type, an operator at one dtype, a hundred random programs). A row goes through
*phases* (build, eager, forward, ...), and a phase has one or more *cases* (one call of a model, one sample of
an operator). Input: the outcomes of cases in the order in which they end. Output: `RowResult`, which turns into
JSON and back without loss.

Invariant: a case is counted exactly once, and only cases that plain PyTorch can run count in a rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import Enum
from typing import Any

KEPT_FAILURES = 40
"""How many failures of one phase keep their details; the counts are always complete."""


class Status(str, Enum):
    """How a case ended."""

    OK = "ok"
    ERROR = "error"
    WRONG = "wrong result"
    TIMEOUT = "timeout"
    CRASH = "crash"
    NOT_RUNNABLE = "not runnable in eager"

    @property
    def is_failure(self) -> bool:
        """True when the case counts against the subject."""
        return self not in (Status.OK, Status.NOT_RUNNABLE)


@dataclasses.dataclass
class Outcome:
    """One case: which, how it ended, and for anything but `OK` why."""

    phase: str
    case: str
    status: Status
    seconds: float = 0.0
    error_class: str = ""
    message: str = ""
    location: str = ""
    max_error: float | None = None
    traceback: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields that say something, ready for `json.dumps`."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value not in ("", None)}
        fields["status"] = self.status.value
        fields["seconds"] = round(self.seconds, 4)
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Outcome:
        """The inverse of `to_json`."""
        return cls(**{"case": "", **fields, "status": Status(fields["status"])})

    @property
    def summary(self) -> str:
        """One line for a table."""
        if self.status is Status.WRONG and self.max_error is not None:
            return f"wrong result: {self.message} (largest difference {self.max_error:.3g})"
        if self.error_class:
            return f"{self.error_class}: {self.message}"
        return self.message or self.status.value


@dataclasses.dataclass
class PhaseResult:
    """The cases of one phase of one row: how many ended how, and details of the failures."""

    counts: dict[Status, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    failures: list[Outcome] = dataclasses.field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one case."""
        self.counts[outcome.status] = self.counts.get(outcome.status, 0) + 1
        self.seconds += outcome.seconds
        if outcome.status is not Status.OK and len(self.failures) < KEPT_FAILURES:
            self.failures.append(outcome)

    @property
    def passed(self) -> int:
        """Cases that agree with eager."""
        return self.counts.get(Status.OK, 0)

    @property
    def failed(self) -> int:
        """Cases that eager runs and the subject does not, or not rightly."""
        return sum(count for status, count in self.counts.items() if status.is_failure)

    @property
    def status(self) -> Status:
        """The phase as a whole: its worst case."""
        for status in (Status.CRASH, Status.WRONG, Status.TIMEOUT, Status.ERROR):
            if self.counts.get(status):
                return status
        return Status.OK if self.passed else Status.NOT_RUNNABLE

    def to_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        return {
            "counts": {status.value: count for status, count in self.counts.items()},
            "seconds": round(self.seconds, 4),
            "failures": [failure.to_json() for failure in self.failures],
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PhaseResult:
        """The inverse of `to_json`."""
        return cls(
            {Status(name): count for name, count in fields["counts"].items()},
            fields["seconds"],
            [Outcome.from_json(failure) for failure in fields["failures"]],
        )


@dataclasses.dataclass
class RowResult:
    """One row of one suite under one subject."""

    suite: str
    row: str
    subject: str
    phases: dict[str, PhaseResult] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells this row from every other of the run."""
        return self.suite, self.row, self.subject

    def add(self, outcome: Outcome) -> None:
        """Count one case under its phase."""
        self.phases.setdefault(outcome.phase, PhaseResult()).add(outcome)

    def to_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        fields: dict[str, Any] = {"suite": self.suite, "row": self.row, "subject": self.subject}
        fields["phases"] = {name: phase.to_json() for name, phase in self.phases.items()}
        fields["seconds"] = round(self.seconds, 3)
        if self.notes:
            fields["notes"] = self.notes
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> RowResult:
        """The inverse of `to_json`."""
        phases = {name: PhaseResult.from_json(phase) for name, phase in fields["phases"].items()}
        return cls(
            fields["suite"], fields["row"], fields["subject"], phases, fields["seconds"], fields.get("notes", {})
        )


@dataclasses.dataclass
class Rate:
    """How many of the cases that eager runs passed, in one phase of one suite under one subject."""

    suite: str
    subject: str
    phase: str
    passed: int = 0
    failed: int = 0
    not_runnable: int = 0

    @property
    def total(self) -> int:
        """Cases that count."""
        return self.passed + self.failed

    @property
    def fraction(self) -> float:
        """Passed cases as a fraction of those that count; 1.0 when none counts."""
        return self.passed / self.total if self.total else 1.0


def rates(rows: Iterable[RowResult]) -> list[Rate]:
    """Sum the phases of all rows, in order of first appearance."""
    found: dict[tuple[str, str, str], Rate] = {}
    for row in rows:
        for name, phase in row.phases.items():
            key = (row.suite, row.subject, name)
            rate = found.setdefault(key, Rate(*key))
            rate.passed += phase.passed
            rate.failed += phase.failed
            rate.not_runnable += phase.counts.get(Status.NOT_RUNNABLE, 0)
    return list(found.values())
