"""The side of a coverage run that executes cases: every case is announced, run, judged and reported.

Input: a file descriptor for events and a row's code, which wraps each case in `Recorder.case`. Output: one JSON
line as a case begins and one as it ends, so that whoever reads the other end knows which case was running when
the process died.

Invariant: no exception of a case leaves its `with` block, except those that end a process. An error after which a CUDA
device answers nothing more ends the process as well, once it has been reported.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from thunder.coverage.device import is_lost
from thunder.coverage.outcomes import Outcome, Status
from thunder.errors import ThunderError

MESSAGE_LENGTH = 600
TRACEBACK_LENGTH = 6000
INTERNAL_PARTS = ("/thunder/", "/torch/", "/site-packages/_pytest/", "/functools.py", "/contextlib.py", "/inspect.py")


class WrongResult(Exception):
    """The subject ran and its answer differs from eager's."""

    def __init__(self, message: str, max_error: float | None = None) -> None:
        super().__init__(message)
        self.max_error = max_error


class NotRunnableInEager(Exception):
    """Plain PyTorch cannot run this case, so it says nothing about the subject."""


class Case:
    """A case that is running or has ended."""

    def __init__(self) -> None:
        self.passed = False
        self.not_runnable = False


class Recorder:
    """Writes what happens to the cases of one row."""

    def __init__(self, descriptor: int, first_case: int = 0, phases: Collection[str] = ()) -> None:
        self.descriptor = descriptor
        self.first_case = first_case
        self.phases = phases
        self.next_case = 0

    def wants(self, phase: str) -> bool:
        """False for a phase that was not asked for."""
        return not self.phases or phase in self.phases

    def skips_next(self) -> bool:
        """True when the next case was already run by a process that then died; it is stepped over."""
        if self.next_case < self.first_case:
            self.next_case += 1
            return True
        return False

    def note(self, **notes: Any) -> None:
        """Attach facts to the row: which class was built, how large, what was adapted."""
        self.send({"event": "note", "notes": notes})

    @contextmanager
    def case(self, phase: str, name: str = "", on_error: Status = Status.ERROR) -> Iterator[Case]:
        """Run the block as one case; an exception becomes its outcome, with status `on_error` by default."""
        case = Case()
        self.send({"event": "begin", "phase": phase, "case": name, "index": self.next_case})
        self.next_case += 1
        started = time.perf_counter()
        outcome = Outcome(phase, name, Status.OK)
        lost = False
        try:
            yield case
        except WrongResult as error:
            outcome.status, outcome.message, outcome.max_error = Status.WRONG, first_line(error), error.max_error
        except NotRunnableInEager as error:
            outcome.status, outcome.message = Status.NOT_RUNNABLE, first_line(error)
            lost = is_lost(error)
        except Exception as error:  # the boundary at which any failure of a subject becomes a line of the table
            outcome.status = on_error
            outcome.error_class = type(error).__name__
            outcome.message = first_line(error)
            outcome.location = stated_location(error) or user_location(error.__traceback__)
            outcome.traceback = shortened(traceback.format_exc())
            lost = is_lost(error)
        case.passed = outcome.status is Status.OK
        case.not_runnable = outcome.status is Status.NOT_RUNNABLE
        outcome.seconds = time.perf_counter() - started
        self.send({"event": "end", **outcome.to_json()})
        if lost:
            self.send({"event": "lost", "index": self.next_case})
            os._exit(1)

    def send(self, event: dict[str, Any]) -> None:
        """Write one event; short lines keep the write atomic."""
        os.write(self.descriptor, (json.dumps(event) + "\n").encode())


def first_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()[:MESSAGE_LENGTH]
    return ""


def shortened(text: str) -> str:
    """A traceback whose middle is left out when it is long: how it began, and where it ended, are kept."""
    if len(text) <= TRACEBACK_LENGTH:
        return text
    third = TRACEBACK_LENGTH // 3
    return f"{text[:third]}\n...\n{text[-2 * third :]}"


def stated_location(error: BaseException) -> str:
    """The line that an error of thunder names, while the program is acquired: no frame of Python's stands there."""
    where = error.where if isinstance(error, ThunderError) else None
    return f"{short_path(where.filename)}:{where.line} {where.function}" if where is not None else ""


def user_location(trace: TracebackType | None) -> str:
    """`file:line function` of the innermost frame that belongs to neither this project nor PyTorch."""
    frames = traceback.extract_tb(trace)
    for frame in reversed(frames):
        if not any(part in frame.filename for part in INTERNAL_PARTS):
            return f"{short_path(frame.filename)}:{frame.lineno} {frame.name}"
    if not frames:
        return ""
    return f"{short_path(frames[-1].filename)}:{frames[-1].lineno} {frames[-1].name}"


def short_path(path: str) -> str:
    """A path without the part that depends on the machine."""
    return path.rpartition("/site-packages/")[2] if "/site-packages/" in path else path
