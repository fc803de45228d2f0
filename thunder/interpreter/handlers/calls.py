"""Calls, and the making of functions.

Layouts on the stack: up to 3.12 `NULL, callable, arguments...` or `callable, self, arguments...` (CALL); from 3.13 on
`callable, NULL, arguments...` or `callable, self, arguments...` (CALL_NULL_LAST).  A Python function that fits the
call exactly gets its frame here, without any detour.
"""

from __future__ import annotations

import sys
from types import CodeType, FunctionType, MethodType
from typing import Any

from ..calling import call_value
from ..frame import NULL, Frame
from ..instructions import instruction, tracked
from ..iteration import native_iterable
from ..lookup import type_lookup
from ..loop import run


@instruction("CALL")
def call(frame: Frame, stack: list[Any], count: int) -> None:
    depth = -count - 2
    function = stack[depth]
    if function is NULL:
        function = stack[depth + 1]
        if type(function) is MethodType:
            stack[depth + 1] = function.__self__
            function = function.__func__
            arguments = stack[depth + 1 :]
        else:
            arguments = stack[depth + 2 :] if count else []
    else:
        arguments = stack[depth + 1 :]
    del stack[depth:]
    interpreter = frame.interpreter
    if type(function) is FunctionType:
        program = interpreter.programs.get(id(function.__code__))
        if program and program.simple_count == len(arguments):
            # The list of arguments becomes the callee's stack.
            arguments += program.tail
            callee = Frame(
                interpreter,
                program,
                function,
                function.__globals__,
                function.__builtins__,  # type: ignore[attr-defined]
                arguments,
            )
            del arguments
            stack.append(run(callee))
            return
    stack.append(call_value(interpreter, function, arguments))


@instruction("CALL_NULL_LAST")
def call_null_last(frame: Frame, stack: list[Any], count: int) -> None:
    depth = -count - 2
    function = stack[depth]
    if stack[depth + 1] is NULL:
        if type(function) is MethodType:
            stack[depth + 1] = function.__self__
            function = function.__func__
            arguments = stack[depth + 1 :]
        else:
            arguments = stack[depth + 2 :] if count else []
    else:
        arguments = stack[depth + 1 :]
    del stack[depth:]
    interpreter = frame.interpreter
    if type(function) is FunctionType:
        program = interpreter.programs.get(id(function.__code__))
        if program and program.simple_count == len(arguments):
            arguments += program.tail
            callee = Frame(
                interpreter,
                program,
                function,
                function.__globals__,
                function.__builtins__,  # type: ignore[attr-defined]
                arguments,
            )
            del arguments
            stack.append(run(callee))
            return
    stack.append(call_value(interpreter, function, arguments))


def _take_callable(stack: list[Any], count: int, null_first: bool) -> tuple[Any, list[Any]]:
    """Pops a callable and its `count` positional arguments in either layout."""
    depth = -count - 2
    first, second = stack[depth], stack[depth + 1]
    if (first if null_first else second) is NULL:
        function = second if null_first else first
        arguments = stack[depth + 2 :] if count else []
    else:
        function = first
        arguments = stack[depth + 1 :]
    del stack[depth:]
    return function, arguments


@tracked("CALL")
def call_tracked(frame: Frame, stack: list[Any], count: int) -> None:
    function, arguments = _take_callable(stack, count, True)
    _call_tracked(frame, stack, function, arguments)


@tracked("CALL_NULL_LAST")
def call_null_last_tracked(frame: Frame, stack: list[Any], count: int) -> None:
    function, arguments = _take_callable(stack, count, False)
    _call_tracked(frame, stack, function, arguments)


def _call_tracked(frame: Frame, stack: list[Any], function: Any, arguments: list[Any]) -> None:
    interpreter = frame.interpreter
    if type(function) is MethodType:
        arguments.insert(0, function.__self__)
        function = function.__func__
    if type(function) is FunctionType:
        program = interpreter.programs.get(id(function.__code__))
        if program and program.simple_count == len(arguments):
            frame.tracker.enter_function(function)
            arguments += program.tail
            callee = Frame(
                interpreter,
                program,
                function,
                function.__globals__,
                function.__builtins__,  # type: ignore[attr-defined]
                arguments,
            )
            del arguments
            stack.append(run(callee))
            return
    stack.append(call_value(interpreter, function, arguments))


@instruction("CALL_KEYWORDS")
def call_keywords(frame: Frame, stack: list[Any], operand: tuple[int, tuple[str, ...]]) -> None:
    count, names = operand
    _call_with_names(frame, stack, count, names, True)


@instruction("CALL_KEYWORDS_NULL_LAST")
def call_keywords_null_last(frame: Frame, stack: list[Any], count: int) -> None:
    names = stack.pop()
    _call_with_names(frame, stack, count, names, False)


def _call_with_names(frame: Frame, stack: list[Any], count: int, names: tuple[str, ...], null_first: bool) -> None:
    function, arguments = _take_callable(stack, count, null_first)
    keywords = dict(zip(names, arguments[-len(names) :]))
    del arguments[-len(names) :]
    stack.append(call_value(frame.interpreter, function, arguments, keywords))


@instruction("CALL_FUNCTION")
def call_function_without_self(frame: Frame, stack: list[Any], count: int) -> None:
    """3.10: the callable and its arguments, nothing else."""
    arguments = stack[-count:] if count else []
    if count:
        del stack[-count:]
    stack.append(call_value(frame.interpreter, stack.pop(), arguments))


@instruction("CALL_FUNCTION_KW")
def call_function_kw(frame: Frame, stack: list[Any], count: int) -> None:
    """3.10: as CALL_FUNCTION, with the names of the last arguments on top."""
    names = stack.pop()
    arguments = stack[-count:]
    del stack[-count:]
    keywords = dict(zip(names, arguments[-len(names) :]))
    del arguments[-len(names) :]
    stack.append(call_value(frame.interpreter, stack.pop(), arguments, keywords))


def called_name(frame: Frame, function: Any) -> str:
    """How error messages name a callable."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return str(function)
    module = getattr(function, "__module__", None)
    if module is not None and module != "builtins":
        return f"{module}.{name}()"
    return f"{name}()"


def _call_unpacked(frame: Frame, function: Any, arguments: Any, keywords: Any) -> Any:
    tracker = frame.tracker
    if tracker is not None:
        for container in (arguments, keywords):
            if type(container) in tracker.container_types:
                tracker.touch(container)
    if type(arguments) is not tuple:
        if type_lookup(type(arguments), "__iter__") is NULL and type_lookup(type(arguments), "__getitem__") is NULL:
            raise TypeError(
                f"{called_name(frame, function)} argument after * must be an iterable, not {type(arguments).__name__}"
            )
        arguments = tuple(native_iterable(frame.interpreter, arguments))
    return call_value(frame.interpreter, function, arguments, keywords)


@instruction("CALL_FUNCTION_EX")
def call_function_ex(frame: Frame, stack: list[Any], flags: int) -> None:
    """`NULL, callable, arguments[, keywords]`"""
    keywords = stack.pop() if flags & 1 else {}
    arguments = stack.pop()
    function = stack.pop()
    stack.pop()
    stack.append(_call_unpacked(frame, function, arguments, keywords))


@instruction("CALL_FUNCTION_EX_NULL_LAST")
def call_function_ex_null_last(frame: Frame, stack: list[Any], flags: int) -> None:
    """`callable, NULL, arguments[, keywords]`"""
    keywords = stack.pop() if flags & 1 else {}
    arguments = stack.pop()
    stack.pop()
    stack.append(_call_unpacked(frame, stack.pop(), arguments, keywords))


@instruction("CALL_FUNCTION_EX_WITHOUT_NULL")
def call_function_ex_without_null(frame: Frame, stack: list[Any], flags: int) -> None:
    """3.10: `callable, arguments[, keywords]`"""
    keywords = stack.pop() if flags & 1 else {}
    arguments = stack.pop()
    stack.append(_call_unpacked(frame, stack.pop(), arguments, keywords))


# Making functions.

CO_HAS_DOCSTRING = 0x4000000
_DOCSTRINGS_ARE_FLAGGED = sys.version_info >= (3, 14)


def _new_function(frame: Frame, code: CodeType, closure: tuple[Any, ...] | None) -> FunctionType:
    installed = frame.interpreter.code_to_install(code)
    function = FunctionType(installed, frame.globals, None, None, closure)
    if installed is not code:
        first = code.co_consts[0] if code.co_consts else None
        has_docstring = isinstance(first, str) and (
            not _DOCSTRINGS_ARE_FLAGGED or bool(code.co_flags & CO_HAS_DOCSTRING)
        )
        function.__doc__ = first if has_docstring else None
    if frame.tracker is not None:
        frame.tracker.new_function(function)
    return function


def _annotations(value: Any) -> dict[str, Any]:
    """Annotations come as a dict or as a flat tuple of names and values."""
    return dict(zip(value[::2], value[1::2])) if type(value) is tuple else value


def _set_parts(stack: list[Any], function: FunctionType, flags: int) -> None:
    """Pops what `flags` tells of from the stack and sets it."""
    if flags & 4:
        function.__annotations__ = _annotations(stack.pop())
    if flags & 2:
        function.__kwdefaults__ = stack.pop()
    if flags & 1:
        function.__defaults__ = stack.pop()


@instruction("MAKE_FUNCTION")
def make_function(frame: Frame, stack: list[Any], flags: int) -> None:
    """3.11 and 3.12: the parts that `flags` tells of, then the code object."""
    code = stack.pop()
    function = _new_function(frame, code, stack.pop() if flags & 8 else None)
    _set_parts(stack, function, flags)
    stack.append(function)


@instruction("MAKE_FUNCTION_WITH_NAME")
def make_function_with_name(frame: Frame, stack: list[Any], flags: int) -> None:
    """3.10: the qualified name lies on top."""
    qualified_name = stack.pop()
    make_function(frame, stack, flags)
    stack[-1].__qualname__ = qualified_name


@instruction("MAKE_FUNCTION_OF_CODE")
def make_function_of_code(frame: Frame, stack: list[Any], _: int) -> None:
    """3.13: the code object alone; SET_FUNCTION_ATTRIBUTE adds the parts, the closure first.

    A function with free variables cannot exist without its closure, so the code object waits for it.
    """
    code = stack[-1]
    if not code.co_freevars:
        stack[-1] = _new_function(frame, code, None)


@instruction("SET_FUNCTION_ATTRIBUTE")
def set_function_attribute(frame: Frame, stack: list[Any], flag: int) -> None:
    function = stack.pop()
    if flag == 8:
        function = _new_function(frame, function, stack.pop())
    else:
        _set_parts(stack, function, flag)
    stack.append(function)
