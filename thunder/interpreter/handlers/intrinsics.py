"""CALL_INTRINSIC_1 and CALL_INTRINSIC_2 (3.12 and newer), and LOAD_SUPER_ATTR.

The versions' tables translate an intrinsic that other versions have as an instruction into that instruction; what is
left concerns type parameters, which only the native instructions can make.
"""

from __future__ import annotations

import opcode
from types import CodeType, FunctionType
from typing import Any

from ..calling import call_value
from ..frame import NULL, Frame
from ..instructions import Operand, instruction


@instruction("STOP_ITERATION_ERROR")
def stop_iteration_error(frame: Frame, stack: list[Any], _: int) -> None:
    """A StopIteration that leaves a generator becomes a RuntimeError, as the native generator would make it."""
    exception = stack[-1]
    flags = frame.program.flags
    if flags & 0x80:
        kind = "coroutine"
    elif flags & 0x200:
        kind = "async generator"
    else:
        kind = "generator"
    if isinstance(exception, StopIteration):
        name = "StopIteration"
    elif flags & 0x200 and isinstance(exception, StopAsyncIteration):
        name = "StopAsyncIteration"
    else:
        return
    error = RuntimeError(f"{kind} raised {name}")
    error.__cause__ = exception
    error.__context__ = exception
    stack[-1] = error


_NATIVE_INTRINSICS: dict[tuple[str, int], CodeType] = {}


def _operand_of_one(a: Any) -> Any:
    return a


def _operands_of_two(a: Any, b: Any) -> Any:
    return a, b


def _native_intrinsic(frame: Frame, name: str, number: int, *operands: Any) -> Any:
    """Executes an intrinsic natively: type parameters cannot be made otherwise, as their bounds are evaluated lazily.

    It runs in a function with the globals of the interpreted frame, from which the type parameter takes its module.
    """
    code = _NATIVE_INTRINSICS.get((name, number))
    if code is None:
        model = _operand_of_one if len(operands) == 1 else _operands_of_two
        names = opcode.opmap
        body = [names["RESUME"], 0]
        for slot in range(len(operands)):
            body += [names["LOAD_FAST"], slot]
        body += [names[name], number, names["RETURN_VALUE"], 0]
        code = model.__code__.replace(co_code=bytes(body), co_stacksize=4, co_linetable=b"")
        _NATIVE_INTRINSICS[name, number] = code
    return FunctionType(code, frame.globals)(*operands)


@instruction("NATIVE_INTRINSIC_1")
def native_intrinsic_1(frame: Frame, stack: list[Any], number: int) -> None:
    stack[-1] = _native_intrinsic(frame, "CALL_INTRINSIC_1", number, stack[-1])


@instruction("NATIVE_INTRINSIC_2")
def native_intrinsic_2(frame: Frame, stack: list[Any], number: int) -> None:
    second = stack.pop()
    stack[-1] = _native_intrinsic(frame, "CALL_INTRINSIC_2", number, stack[-1], second)


@instruction("PUSH_NONE")
def push_none(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(None)


@instruction("LOAD_SUPER_ATTR", Operand.NAME)
def load_super_attr(frame: Frame, stack: list[Any], operand: tuple[str, bool, int]) -> None:
    """`super().name`: the name `super`, the class and the instance lie on the stack.

    The operand is the attribute's name, whether `super()` had no arguments, and where the caller wants a NULL: 0 for
    none, 1 below the value, 2 above it.
    """
    name, explicit, null = operand
    instance = stack.pop()
    cls = stack.pop()
    function = stack.pop()
    interpreter = frame.interpreter
    proxy = call_value(interpreter, function, (cls, instance) if explicit else ())
    if null == 1:
        stack.append(NULL)
    stack.append(interpreter.getattr(proxy, name) if frame.tracker is None else frame.tracker.load_attr(proxy, name))
    if null == 2:
        stack.append(NULL)
