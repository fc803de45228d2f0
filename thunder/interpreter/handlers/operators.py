"""Arithmetic, comparisons, identity, membership and truth.

The commonest operators have instructions of their own, with a short cut for builtin types.
"""

from __future__ import annotations

import operator
from typing import Any

from .. import operators
from ..frame import Frame
from ..instructions import instruction, tracked
from ..lookup import PLAIN_TYPES
from ..operations import BINARY_OPERATIONS, COMPARISONS, Operation

SCALARS = frozenset({int, float, str, bool})
ADD, SUBTRACT = BINARY_OPERATIONS["+"], BINARY_OPERATIONS["-"]
MULTIPLY, AND = BINARY_OPERATIONS["*"], BINARY_OPERATIONS["&"]


@instruction("BINARY_OPERATION")
def binary_operation(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in SCALARS and type(right) in SCALARS:
        stack[-1] = operation.native(left, right)
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@tracked("BINARY_OPERATION")
@tracked("BINARY_ADD")
@tracked("BINARY_SUBTRACT")
@tracked("BINARY_MULTIPLY")
@tracked("BINARY_AND")
@tracked("BINARY_MODULO")
@tracked("INPLACE_ADD")
def binary_operation_tracked(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in SCALARS and type(right) in SCALARS:
        stack[-1] = operation.native(left, right)
        return
    touched = frame.tracker.container_types
    if type(left) in touched:
        frame.tracker.touch(left)
        if operation.in_place is not None:
            frame.tracker.change(left)
    if type(right) in touched:
        if type(left) in SCALARS:  # `text % values` shows them
            frame.tracker.touch_deeply(right)
        else:
            frame.tracker.touch(right)
    result = operators.binary(frame.interpreter, left, right, operation)
    stack[-1] = frame.tracker.text(result) if type(result) is str else result


@instruction("BINARY_ADD")
def binary_add(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        stack[-1] = left + right
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@instruction("INPLACE_ADD")
def inplace_add(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        left += right
        stack[-1] = left
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@instruction("BINARY_SUBTRACT")
def binary_subtract(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        stack[-1] = left - right
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@instruction("BINARY_MULTIPLY")
def binary_multiply(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        stack[-1] = left * right
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@instruction("BINARY_AND")
def binary_and(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in SCALARS and type(right) in SCALARS:
        stack[-1] = left & right
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@instruction("BINARY_FLOOR_DIVIDE")
def binary_floor_divide(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in SCALARS and type(right) in SCALARS:
        stack[-1] = left // right
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


@instruction("BINARY_MODULO")
def binary_modulo(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in SCALARS and type(right) in SCALARS:
        stack[-1] = left % right
    else:
        stack[-1] = operators.binary(frame.interpreter, left, right, operation)


def _tracked_binary(name: str) -> None:
    """Operators that have no effect on containers still read them: all share the tracked handler."""
    tracked(name)(binary_operation_tracked)


for _name in (
    "BINARY_ADD",
    "BINARY_SUBTRACT",
    "BINARY_MULTIPLY",
    "BINARY_AND",
    "BINARY_FLOOR_DIVIDE",
    "BINARY_MODULO",
):
    _tracked_binary(_name)


@instruction("COMPARE")
def compare(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        stack[-1] = operation.native(left, right)
    else:
        stack[-1] = operators.compare(frame.interpreter, left, right, operation)


@instruction("COMPARE_LESS")
def compare_less(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        stack[-1] = left < right
    else:
        stack[-1] = operators.compare(frame.interpreter, left, right, operation)


@instruction("COMPARE_EQUAL")
def compare_equal(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    if type(left) in PLAIN_TYPES and type(right) in PLAIN_TYPES:
        stack[-1] = left == right
    else:
        stack[-1] = operators.compare(frame.interpreter, left, right, operation)


@tracked("COMPARE")
@tracked("COMPARE_LESS")
@tracked("COMPARE_EQUAL")
def compare_tracked(frame: Frame, stack: list[Any], operation: Operation) -> None:
    right = stack.pop()
    left = stack[-1]
    touched = frame.tracker.container_types
    if type(left) in touched:
        frame.tracker.touch_deeply(left)
    if type(right) in touched:
        frame.tracker.touch_deeply(right)
    if type(left) not in SCALARS and type(right) not in SCALARS:
        frame.tracker.compare(left, right)
        if type(left) in touched and type(right) in touched:
            left, right = frame.tracker.seen(left), frame.tracker.seen(right)
    stack[-1] = operators.compare(frame.interpreter, left, right, operation)


@instruction("UNARY_NEGATIVE")
def unary_negative(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = operators.unary(frame.interpreter, stack[-1], "__neg__", operator.neg)


@instruction("UNARY_POSITIVE")
def unary_positive(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = operators.unary(frame.interpreter, stack[-1], "__pos__", operator.pos)


@instruction("UNARY_INVERT")
def unary_invert(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = operators.unary(frame.interpreter, stack[-1], "__invert__", operator.invert)


def truth_of(frame: Frame, value: Any) -> bool:
    """The truth of a value, through the tracker if there is one."""
    if value is True or value is False:
        return value
    if value is None:
        return False
    if type(value) in SCALARS:
        return bool(value)
    tracker = frame.tracker
    if tracker is None:
        return operators.truth(frame.interpreter, value)
    return tracker.truth(value)


@instruction("UNARY_NOT")
def unary_not(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = not truth_of(frame, stack[-1])


@instruction("TO_BOOL")
def to_bool(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = truth_of(frame, stack[-1])


def is_same(frame: Frame, left: Any, right: Any) -> bool:
    """`left is right`, decided by the tracker where it watches one of them."""
    tracker = frame.tracker
    kinds = (type(left), type(right))
    for watched in (tracker.container_types, tracker.wrapped_types):
        if kinds[0] in watched or kinds[1] in watched:
            return tracker.identity(left, right)
    return left is right


@instruction("IS_OP")
def is_op(frame: Frame, stack: list[Any], inverted: int) -> None:
    right = stack.pop()
    stack[-1] = (stack[-1] is not right) if inverted else (stack[-1] is right)


@tracked("IS_OP")
def is_op_tracked(frame: Frame, stack: list[Any], inverted: int) -> None:
    right = stack.pop()
    same = is_same(frame, stack[-1], right)
    stack[-1] = not same if inverted else same


@instruction("CONTAINS_OP")
def contains_op(frame: Frame, stack: list[Any], inverted: int) -> None:
    container = stack.pop()
    found = operators.contains(frame.interpreter, container, stack[-1])
    stack[-1] = not found if inverted else found


@tracked("CONTAINS_OP")
def contains_op_tracked(frame: Frame, stack: list[Any], inverted: int) -> None:
    container = stack.pop()
    if type(container) in frame.tracker.container_types:
        stack[-1] = frame.tracker.search(container, stack[-1])
        if type(container) is list or type(container) is tuple:
            container = frame.tracker.seen(container)
    found = operators.contains(frame.interpreter, container, stack[-1])
    stack[-1] = not found if inverted else found


__all__ = ["COMPARISONS", "is_same", "truth_of"]
