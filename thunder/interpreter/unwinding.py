"""Unwinding: what a frame does with an exception that is being handled natively.

`unwind(frame)` runs inside a driver's `except` block.  It records the frame in the traceback, finds the program's
exception handler, puts the stack and `frame.position` where the handler expects them, and answers what the driver
must do next.

CPython 3.11 and newer describe handlers in a table of ranges; 3.10 keeps a stack of blocks in the frame.
"""

from __future__ import annotations

import sys
from typing import Any

from .frame import LEFT_HANDLER, NULL, Frame, running_frames
from .tracebacks import record
from .versions.current import TABLE

PROPAGATE = 0
"""The frame has no handler: re-raise."""
ENTER = 1
"""Execute the handler at `frame.position` inside the native `except` block."""
CONTINUE = 2
"""Leave the native `except` block, then go on at `frame.position` (cleanup that the compiler put after a handler)."""
LEAVE = 3
"""End the nested driver; the driver outside goes on at `frame.position`."""


def raised() -> BaseException:
    """The exception that is being handled natively."""
    exception = sys.exc_info()[1]
    assert exception is not None  # called from `except` blocks only
    return exception


def _unwind_by_ranges(frame: Frame) -> int:
    exception = raised()
    index = frame.index()
    record(frame, exception)
    program = frame.program
    for start, end, target, depth, push_index in program.handler_ranges:
        if start <= index < end:
            stack = frame.stack
            del stack[program.base + depth :]
            if push_index:
                stack.append(frame.shown_index())
            stack.append(exception)
            frame.position = target
            frame.raised_at = None
            return ENTER if program.names[target] == "PUSH_EXC_INFO" else CONTINUE
    return _leave(frame)


def _leave(frame: Frame) -> int:
    """The frame has no handler. A traceback may show it when it has ended; it still tells who called it then."""
    if not frame.program.suspends:
        frame.kept_back = next((outer for outer in running_frames(sys._getframe()) if outer is not frame), None)
    tracing = frame.interpreter.tracing
    if tracing.functions:
        tracing.unwound(frame)
    return PROPAGATE


class Block:
    """An entry of the block stack of 3.10: a handler that is set up, or one that is being executed."""

    __slots__ = ("depth", "is_running", "raised_at", "target")

    def __init__(self, is_running: bool, target: int, depth: int, raised_at: int = 0) -> None:
        self.is_running = is_running
        self.target = target
        self.depth = depth
        self.raised_at = raised_at  # of a running handler: the index of the instruction that raised


def _unwind_by_blocks(frame: Frame) -> int:
    exception = raised()
    record(frame, exception)
    blocks = getattr(frame, "blocks", None)
    stack = frame.stack
    if not blocks:
        return _leave(frame)
    block = blocks.pop()
    if block.is_running:
        # The exception leaves a handler; a handler further out can only run in the driver further out.
        if not any(not outer.is_running for outer in blocks):
            return _leave(frame)
        del stack[block.depth :]
        frame.result = LEFT_HANDLER
        frame.pending = exception
        frame.position = len(frame.instructions) - 1  # RERAISE_PENDING
        return LEAVE
    del stack[block.depth :]
    blocks.append(Block(True, -1, block.depth, frame.shown_index()))
    frame.raised_at = None
    # The state to go back to is native; its three slots only keep the depth right.
    stack += (NULL, NULL, NULL, exception.__traceback__, exception, type(exception))
    frame.position = block.target
    return ENTER


unwind: Any = _unwind_by_ranges if TABLE.exception_table else _unwind_by_blocks
