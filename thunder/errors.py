"""Every error that thunder raises on purpose: one class per failure; each says what, where and what to do.

Input: the facts of the failure.  Output: an exception whose message has three parts (what happened, the user's
own line, the remedy).  Errors raised by PyTorch itself keep their class and message: thunder only adds a note
with the user's line (`add_location_note`).
"""

from __future__ import annotations

import contextlib
import linecache
import threading
from collections.abc import Iterator
from typing import NamedTuple


class Location(NamedTuple):
    """A place in the user's program."""

    filename: str
    line: int
    function: str = ""

    @property
    def text(self) -> str:
        """The source line, stripped; empty when the file cannot be read."""
        return linecache.getline(self.filename, self.line).strip()

    def __str__(self) -> str:
        where = f"{self.filename}:{self.line}"
        if self.function:
            where += f" in {self.function}"
        return f"{where}\n    {self.text}" if self.text else where


class ThunderError(Exception):
    """Base class of thunder's errors: `what` went wrong, `where` in the user's program, `remedy` to try."""

    def __init__(self, what: str, where: Location | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        parts = [what]
        if where is not None:
            parts.append(f"  at {where}")
        if remedy:
            parts.append(f"  remedy: {remedy}")
        super().__init__("\n".join(parts))


class RefusalError(ThunderError):
    """Base class of what acquisition raises when it cannot go on.

    The user's own `try: ... except Exception:` may catch it while their program is acquired; `noted_refusals` tells
    that it was raised nevertheless.
    """

    def __init__(self, what: str, where: Location | None = None, remedy: str | None = None) -> None:
        super().__init__(what, where, remedy)
        noted = getattr(_refusals, "noted", None)
        if noted is not None:
            noted.append(self)


_refusals = threading.local()


@contextlib.contextmanager
def noted_refusals() -> Iterator[list[RefusalError]]:
    """The refusals that this thread raises within the block."""
    outer = getattr(_refusals, "noted", None)
    noted: list[RefusalError] = []
    _refusals.noted = noted
    try:
        yield noted
    finally:
        _refusals.noted = outer


class DataDependentError(RefusalError):
    """The program's path depends on the values of a tensor, which are unknown while it is acquired."""


class SharpEdgeError(RefusalError):
    """Python that reaches outside of the program, met with `sharp_edges="error"`."""


class ImpureCallError(RefusalError):
    """A call with another answer every time; calls of the user's function that get there run in plain Python."""


class SharpEdgeWarning(UserWarning):
    """Python that reaches outside of the program, met with `sharp_edges="warn"`, or a call that ran in plain Python."""


class UnsupportedError(RefusalError):
    """Something that thunder does not compile; raised before anything of the user's is changed."""


class CompilationError(ThunderError):
    """Only the compiled form of a call fails: plain Python runs it.

    That plain Python runs it is known by then from having run it, once; the message says so.
    """


class TraceVerificationError(ThunderError):
    """A trace is not well formed; the message names the operation and, when known, the pass that made it."""


class OptionError(ThunderError, ValueError):
    """A wrong option: names the option, the value and the known values."""


class QuantizationError(ThunderError, ValueError):
    """A matrix, layer or model that cannot be quantised as asked; the model is left as it was."""


class CheckpointError(ThunderError, ValueError):
    """A file of weights or a checkpoint that cannot be read: absent, foreign, damaged, of another version or model."""


class PrecisionNote(UserWarning):
    """Which way a computation in few bits is taken on this machine."""


class ProcessGroupError(ThunderError):
    """There is no process group, or not one that suits: names what is missing."""


class MeshError(ThunderError, ValueError):
    """A mesh that does not fit the number of processes, the devices of the model or the plugin."""


class PipelineError(ThunderError, ValueError):
    """A program that cannot be cut into the stages that were asked for, or a call that a pipeline cannot make."""


class ShardingPlanError(ThunderError, ValueError):
    """A plan that names no module, or asks for what a module cannot have; lists what there is."""


class PlanningError(OptionError):
    """A model, device or mesh for which no step can be predicted; says why, and what there is."""


class DivergenceError(ThunderError):
    """Processes that should do the same do not: names the ranks and what differs."""


class CollectiveError(ThunderError):
    """A collective did not come to its end: names it, and the ranks that did not take part."""


class KernelLaunchError(ThunderError):
    """The CUDA driver did not take a kernel: names it and CUDA's error."""


class ExecutorWarning(UserWarning):
    """An executor cannot do its work here, or not for one region; the message says which and why."""


class RecompileWarning(UserWarning):
    """The same guard keeps failing; the message names it."""


def unknown_name(kind: str, name: object, known: list[str]) -> OptionError:
    """The error for a name that is not known, listing the ones that are."""
    return OptionError(f"unknown {kind} {name!r}", remedy=f"known: {', '.join(sorted(known)) or 'none'}")


def add_location_note(error: BaseException, where: Location | None) -> None:
    """Adds the user's line to a foreign exception once (PEP 678 notes; Python 3.10 gets `__notes__` only)."""
    if where is None or getattr(error, "__thunder_location__", None) is not None:
        return
    note = f"thunder: at {where}"
    try:
        error.__thunder_location__ = where  # type: ignore[attr-defined]
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:
            error.__notes__ = [*getattr(error, "__notes__", []), note]
    except AttributeError:
        pass  # an exception class with __slots__: its own message must do
