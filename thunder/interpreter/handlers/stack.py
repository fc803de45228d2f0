"""Constants, local variables and the shuffling of the value stack."""

from __future__ import annotations

from typing import Any

from ..frame import NULL, Frame
from ..instructions import Operand, instruction
from ..messages import unbound_local


@instruction("NOP")
def nop(frame: Frame, stack: list[Any], _: int) -> None:
    """A line that does nothing (`pass`, `while True:`); tracing tells of it."""


@instruction("LOAD_CONST", Operand.CONSTANT)
def load_const(frame: Frame, stack: list[Any], value: Any) -> None:
    stack.append(value)


@instruction("LOAD_FAST", Operand.LOCAL)
@instruction("LOAD_FAST_CHECK", Operand.LOCAL)
def load_fast(frame: Frame, stack: list[Any], slot: int) -> None:
    value = stack[slot]
    if value is NULL:
        raise unbound_local(frame.program.local_names[slot])
    stack.append(value)


@instruction("LOAD_SLOT", Operand.LOCAL)
def load_slot(frame: Frame, stack: list[Any], slot: int) -> None:
    """Pushes what a slot holds, be it a cell, NULL, or a variable that the compiler knows to be bound."""
    stack.append(stack[slot])


@instruction("LOAD_FAST_AND_CLEAR", Operand.LOCAL)
def load_fast_and_clear(frame: Frame, stack: list[Any], slot: int) -> None:
    stack.append(stack[slot])
    stack[slot] = NULL


@instruction("STORE_FAST", Operand.LOCAL)
def store_fast(frame: Frame, stack: list[Any], slot: int) -> None:
    stack[slot] = stack.pop()


@instruction("DELETE_FAST", Operand.LOCAL)
def delete_fast(frame: Frame, stack: list[Any], slot: int) -> None:
    if stack[slot] is NULL:
        raise unbound_local(frame.program.local_names[slot])
    stack[slot] = NULL


@instruction("POP_TOP")
def pop_top(frame: Frame, stack: list[Any], _: int) -> None:
    stack.pop()


@instruction("PUSH_NULL")
def push_null(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(NULL)


@instruction("COPY")
def copy(frame: Frame, stack: list[Any], depth: int) -> None:
    stack.append(stack[-depth])


@instruction("SWAP")
def swap(frame: Frame, stack: list[Any], depth: int) -> None:
    stack[-1], stack[-depth] = stack[-depth], stack[-1]


@instruction("END_SEND")
def end_send(frame: Frame, stack: list[Any], _: int) -> None:
    del stack[-2]


@instruction("ROTATE")
def rotate(frame: Frame, stack: list[Any], count: int) -> None:
    """Lifts the second to the `count`-th item one up and moves the top down below them."""
    stack.insert(-count, stack[-1])
    stack.pop()


@instruction("DUP_TOP_TWO")
def dup_top_two(frame: Frame, stack: list[Any], _: int) -> None:
    stack += stack[-2:]
