"""CALL_INTRINSIC_1 and CALL_INTRINSIC_2 (3.12 and newer), and LOAD_SUPER_ATTR.

The versions' tables translate an intrinsic that other versions have as an instruction into that instruction; what is
left concerns type parameters.
"""

from __future__ import annotations

import typing
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


@instruction("TYPE_VARIABLE")
def type_variable(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = _in_module(frame, typing.TypeVar(stack[-1], infer_variance=True))


@instruction("PARAM_SPEC")
def param_spec(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = _in_module(frame, typing.ParamSpec(stack[-1], infer_variance=True))


@instruction("TYPE_VARIABLE_TUPLE")
def type_variable_tuple(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = _in_module(frame, typing.TypeVarTuple(stack[-1]))


def _in_module(frame: Frame, parameter: Any) -> Any:
    return parameter


@instruction("SUBSCRIPT_GENERIC")
def subscript_generic(frame: Frame, stack: list[Any], _: int) -> None:
    """The base class `Generic[...]` of a class with type parameters."""
    parameters = tuple(
        typing.Unpack[parameter] if isinstance(parameter, typing.TypeVarTuple) else parameter
        for parameter in stack[-1]
    )
    stack[-1] = typing.Generic[parameters]


@instruction("SET_FUNCTION_TYPE_PARAMETERS")
def set_function_type_parameters(frame: Frame, stack: list[Any], _: int) -> None:
    parameters = stack.pop()
    stack[-1].__type_params__ = parameters


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
    proxy = call_value(interpreter, function, (cls, instance) if explicit or function is super else ())
    if null == 1:
        stack.append(NULL)
    stack.append(
        interpreter.getattr(proxy, name) if frame.tracker is None else frame.tracker.load_attr(proxy, name)
    )
    if null == 2:
        stack.append(NULL)
