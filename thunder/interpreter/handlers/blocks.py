"""3.10 only: the block stack, and exceptions as three items (type, value, traceback) on the value stack."""

from __future__ import annotations

from typing import Any

from ..calling import call_value
from ..frame import Frame
from ..instructions import Operand, instruction
from ..unwinding import Block
from .exceptions import enter_with, leave_handler, reraise


def _set_up(frame: Frame, target: int, depth: int) -> None:
    block = Block(False, target, depth)
    try:
        frame.blocks.append(block)
    except AttributeError:
        frame.blocks = [block]


@instruction("SETUP_FINALLY", Operand.JUMP)
def setup_finally(frame: Frame, stack: list[Any], target: int) -> None:
    _set_up(frame, target, len(stack))


@instruction("SETUP_WITH", Operand.JUMP)
def setup_with(frame: Frame, stack: list[Any], target: int) -> None:
    result = enter_with(frame, stack)
    _set_up(frame, target, len(stack))
    stack.append(result)


@instruction("SETUP_ASYNC_WITH", Operand.JUMP)
def setup_async_with(frame: Frame, stack: list[Any], target: int) -> None:
    _set_up(frame, target, len(stack) - 1)


@instruction("POP_BLOCK")
def pop_block(frame: Frame, stack: list[Any], _: int) -> None:
    frame.blocks.pop()


@instruction("POP_EXCEPT_BLOCK")
def pop_except_block(frame: Frame, stack: list[Any], _: int) -> None:
    frame.blocks.pop()
    del stack[-3:]
    leave_handler(frame)


@instruction("RERAISE_TRIPLE")
def reraise_triple(frame: Frame, stack: list[Any], shows_first_raise: int) -> None:
    """With a true operand the frame shows the line again that raised first."""
    if shows_first_raise:
        frame.raised_at = frame.blocks[-1].raised_at
    stack.pop()
    exception = stack.pop()
    exception.__traceback__ = stack.pop()  # as it was when the handler was entered
    reraise(frame, exception)


@instruction("RERAISE_PENDING")
def reraise_pending(frame: Frame, stack: list[Any], _: int) -> None:
    """Added after the code: goes on with an exception that left a handler, in the driver further out."""
    exception = frame.pending
    frame.pending = None
    reraise(frame, exception)


@instruction("WITH_EXCEPT_START_TRIPLE")
def with_except_start_triple(frame: Frame, stack: list[Any], _: int) -> None:
    """`__exit__` lies below the previous and the raised exception, three items each."""
    stack.append(call_value(frame.interpreter, stack[-7], (stack[-1], stack[-2], stack[-3])))


@instruction("END_ASYNC_FOR_BLOCK")
def end_async_for_block(frame: Frame, stack: list[Any], _: int) -> None:
    exception = stack[-2]
    if not isinstance(exception, StopAsyncIteration):
        reraise_triple(frame, stack, 0)
    block = frame.blocks.pop()
    del stack[block.depth - 1 :]
    leave_handler(frame)
