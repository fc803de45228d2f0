"""Jumps, loops and the return from a function."""

from __future__ import annotations

from typing import Any

from ..frame import END, NULL, Frame
from ..instructions import Operand, instruction, tracked
from ..iteration import get_iterator, next_value
from ..loop import YIELD
from .operators import is_same, truth_of


@instruction("RETURN_VALUE")
def return_value(frame: Frame, stack: list[Any], _: int) -> None:
    frame.result = stack.pop()
    frame.jump(END)


@instruction("RETURN_CONST", Operand.CONSTANT)
def return_const(frame: Frame, stack: list[Any], value: Any) -> None:
    frame.result = value
    frame.jump(END)


@instruction("YIELD_VALUE")
def yield_value(frame: Frame, stack: list[Any], _: int) -> Any:
    return YIELD


@instruction("JUMP", Operand.JUMP)
def jump(frame: Frame, stack: list[Any], target: int) -> None:
    frame.jump(target)


@instruction("POP_JUMP_IF_FALSE", Operand.JUMP)
def pop_jump_if_false(frame: Frame, stack: list[Any], target: int) -> None:
    value = stack.pop()
    if value is True:
        return
    if value is False or not truth_of(frame, value):
        frame.jump(target)


@instruction("POP_JUMP_IF_TRUE", Operand.JUMP)
def pop_jump_if_true(frame: Frame, stack: list[Any], target: int) -> None:
    value = stack.pop()
    if value is False:
        return
    if value is True or truth_of(frame, value):
        frame.jump(target)


@instruction("POP_JUMP_IF_NONE", Operand.JUMP)
def pop_jump_if_none(frame: Frame, stack: list[Any], target: int) -> None:
    if stack.pop() is None:
        frame.jump(target)


@tracked("POP_JUMP_IF_NONE")
def pop_jump_if_none_tracked(frame: Frame, stack: list[Any], target: int) -> None:
    if is_same(frame, stack.pop(), None):
        frame.jump(target)


@instruction("POP_JUMP_IF_NOT_NONE", Operand.JUMP)
def pop_jump_if_not_none(frame: Frame, stack: list[Any], target: int) -> None:
    if stack.pop() is not None:
        frame.jump(target)


@tracked("POP_JUMP_IF_NOT_NONE")
def pop_jump_if_not_none_tracked(frame: Frame, stack: list[Any], target: int) -> None:
    if not is_same(frame, stack.pop(), None):
        frame.jump(target)


@instruction("JUMP_IF_FALSE_OR_POP", Operand.JUMP)
def jump_if_false_or_pop(frame: Frame, stack: list[Any], target: int) -> None:
    if truth_of(frame, stack[-1]):
        stack.pop()
    else:
        frame.jump(target)


@instruction("JUMP_IF_TRUE_OR_POP", Operand.JUMP)
def jump_if_true_or_pop(frame: Frame, stack: list[Any], target: int) -> None:
    if truth_of(frame, stack[-1]):
        frame.jump(target)
    else:
        stack.pop()


@instruction("GET_ITER")
def get_iter(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = get_iterator(frame.interpreter, stack[-1])


@tracked("GET_ITER")
def get_iter_tracked(frame: Frame, stack: list[Any], _: int) -> None:
    obj = stack[-1]
    if type(obj) in frame.tracker.container_types:
        frame.tracker.touch(obj)
    stack[-1] = get_iterator(frame.interpreter, obj)


@instruction("FOR_ITER", Operand.JUMP)
def for_iter(frame: Frame, stack: list[Any], target: int) -> None:
    iterator = stack[-1]
    if id(type(iterator)) in frame.interpreter.native_iterators:
        value = next(iterator, NULL)
    else:
        value = next_value(frame.interpreter, iterator)
    if value is NULL:
        stack.pop()
        frame.jump(target)
    else:
        stack.append(value)


@tracked("FOR_ITER")
def for_iter_tracked(frame: Frame, stack: list[Any], target: int) -> None:
    value = next_value(frame.interpreter, stack[-1])
    if value is NULL:
        stack.pop()
        frame.jump(target)
        return
    tracker = frame.tracker
    stack.append(tracker.wrap(value) if type(value) in tracker.wrapped_types else value)
