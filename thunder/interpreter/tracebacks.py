"""Tracebacks that show the interpreted program instead of the interpreter.

When an exception reaches the driver of an interpreted frame, the native traceback holds the interpreter's own
frames.  `record` takes them out and adds one entry for the interpreted frame: a real traceback object around a real
frame object of a *stub*, a code object with the user's name, file, line table and globals.  The stub's only local
variable is the interpreted `Frame`, so that interpreted code that asks for `tb_frame` gets that one
(`frame_of_traceback`).
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any

from .frame import DRIVEN_CODE, Frame, is_internal
from .program import CO_GENERATOR, Program

_MARK = ".frame"


__all__ = [
    "frame_of_traceback",
    "is_internal",
    "is_stub",
    "is_stub_code",
    "record",
    "stub_frame",
    "without_internal_frames",
]


def _generator_model(_frame: Any) -> Any:
    yield


def _stub_code(program: Program) -> CodeType:
    """A generator's code object that looks like the program's and does nothing."""
    code = program.code
    model = _generator_model.__code__
    # The variables have no values; up to 3.11 their names serve the suggestions for misspelt ones.
    names = (_MARK, *code.co_varnames)
    length = len(code.co_code)
    body = model.co_code
    changes: dict[str, Any] = {
        "co_argcount": 1,
        "co_posonlyargcount": 0,
        "co_kwonlyargcount": 0,
        "co_nlocals": len(names),
        "co_varnames": names,
        "co_cellvars": (),
        "co_freevars": (),
        "co_flags": (code.co_flags & ~0x28C) | CO_GENERATOR | 0x3,
        "co_stacksize": max(model.co_stacksize, 2),
        "co_consts": model.co_consts,
        # Never executed beyond its first instructions; the length must cover the line table.
        "co_code": body + b"\x09\x00" * max((length - len(body)) // 2, 0),
    }
    if sys.version_info >= (3, 11):
        changes["co_exceptiontable"] = b""
    return code.replace(**changes)


def stub_frame(frame: Frame) -> FrameType:
    """A native frame object that stands for an interpreted frame in tracebacks."""
    program = frame.program
    if program.stub is None:
        program.stub = _stub_code(program)
    return FunctionType(program.stub, frame.globals)(frame).gi_frame


def is_stub_code(code: CodeType) -> bool:
    return code.co_varnames[:1] == (_MARK,)


def is_stub(native: FrameType) -> bool:
    return native.f_code.co_varnames[:1] == (_MARK,)


def frame_of_traceback(native: FrameType) -> Any:
    """The interpreted frame that a native frame object stands for, or the native frame itself."""
    return native.f_locals.get(_MARK, native) if is_stub(native) else native


def without_internal_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback less the interpreter's own entries."""
    if traceback is None:
        return None
    kept = []
    while traceback is not None and not is_stub(traceback.tb_frame):
        if not is_internal(traceback.tb_frame.f_code):
            kept.append(traceback)
        elif id(traceback.tb_frame.f_code) in DRIVEN_CODE:
            entry = _entry_of_unstarted(traceback.tb_frame)
            if entry is not None:
                kept.append(entry)
        traceback = traceback.tb_next
    # From a stub on everything was cleaned when that stub was made.
    for entry in reversed(kept):
        traceback = TracebackType(traceback, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return traceback


def _entry_of_unstarted(native: FrameType) -> TracebackType | None:
    """The entry of a generator into which something was thrown before it had started."""
    frame = native.f_locals.get("frame")
    if type(frame) is not Frame or hasattr(frame, "iterator"):
        return None
    return TracebackType(None, stub_frame(frame), 0, frame.program.code.co_firstlineno)


def _drop_internal_contexts(exception: BaseException) -> None:
    """Takes recursion errors that the interpreter itself ran into, while it unwound one, out of the contexts."""
    context = exception.__context__
    while type(context) is RecursionError and without_internal_frames(context.__traceback__) is None:
        context = context.__context__
    exception.__context__ = context


def record(frame: Frame, exception: BaseException) -> None:
    """Makes the exception's traceback show that it passed through `frame`, and nothing of the interpreter."""
    traceback = without_internal_frames(exception.__traceback__)
    if frame.reraising:
        frame.reraising = False
        exception.__traceback__ = traceback
        return
    if type(exception) is RecursionError:
        _drop_internal_contexts(exception)
    program = frame.program
    index = frame.index()
    exception.__traceback__ = TracebackType(
        traceback, stub_frame(frame), max(program.offsets[index], 0), program.line(index)
    )
    tracing = frame.interpreter.tracing
    if tracing.functions:
        tracing.raised(frame, exception)
