"""Calls: deciding what a callable is, and running it interpreted, replaced or natively.

`call_value` is the general way; the handlers of CALL have a short cut for the commonest case, a Python function
called with as many positional arguments as it has parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from .binding import bind
from .frame import NULL, Frame
from .lookup import is_class, type_lookup
from .loop import run, suspended

_NO_KEYWORDS: dict[str, Any] = {}
_HASHABLE_CALLABLES = frozenset(
    {
        BuiltinFunctionType,
        MethodDescriptorType,
        WrapperDescriptorType,
        ClassMethodDescriptorType,
    }
)


def call_value(interp: Any, function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any] = _NO_KEYWORDS) -> Any:
    """Calls anything callable."""
    kind = type(function)
    if kind is FunctionType:
        return call_function(interp, function, arguments, keywords)
    if kind is MethodType:
        target = function.__func__
        receiver = function.__self__
        if type(target) is FunctionType:
            return call_function(interp, target, (receiver, *arguments), keywords)
        return call_value(interp, target, (receiver, *arguments), keywords)
    if kind in _HASHABLE_CALLABLES:
        replacement = find_replacement(interp, function, kind)
        if replacement is not None:
            bound, replace = replacement
            return replace(interp, *bound, *arguments, **keywords)
        if function is _TYPE_CALL and arguments and is_class(arguments[0]):
            return create_instance(interp, arguments[0], arguments[1:], keywords)
        return interp.call_natively(function, arguments, keywords)
    if is_class(function):
        replace = interp.lookasides.get(function) if type(function).__hash__ is type.__hash__ else None
        if replace is not None:
            return replace(interp, *arguments, **keywords)
        return instantiate(interp, function, arguments, keywords)
    if kind is functools.partial:
        held = (*function.args, *arguments)
        if keywords or function.keywords:
            keywords = {**function.keywords, **keywords}
        if interp.tracker is not None:
            interp.tracker.enter_partial(function)
            held = tuple(_seen(interp.tracker, held))
            keywords = dict(zip(keywords, _seen(interp.tracker, keywords.values())))
        return call_value(interp, function.func, held, keywords)
    if kind is MethodWrapperType:
        return _call_slot(interp, function, arguments, keywords)
    method = type_lookup(kind, "__call__")
    if type(method) is FunctionType:
        return call_function(interp, method, (function, *arguments), keywords)
    if method is not NULL and type(method) not in (WrapperDescriptorType, MethodDescriptorType):
        getter = type_lookup(type(method), "__get__")
        bound = method if getter is NULL else call_value(interp, getter, (method, function, kind))
        return call_value(interp, bound, arguments, keywords)
    return interp.call_natively(function, arguments, keywords)


def find_replacement(interp: Any, function: Any, kind: type) -> tuple[tuple[Any, ...], Any] | None:
    """The look-aside of a builtin and the arguments that come before the call's own; None if there is none."""
    if kind is BuiltinFunctionType:
        receiver = function.__self__
        name = function.__name__
        if receiver is not None and type(receiver) is not ModuleType and name not in interp.extension_names:
            if name in interp.method_lookaside_names:
                if is_class(receiver):
                    replace = _hashed_get(interp.lookasides, function)
                    return None if replace is None else ((), replace)
                descriptor = type_lookup(type(receiver), name)
                replace = _hashed_get(interp.lookasides, descriptor)
                if replace is not None:
                    return (receiver,), replace
                # pybind11 gives its functions a receiver of its own, which is no argument of theirs.
                replace = interp.lookasides.get(function)
                return None if replace is None else ((), replace)
            return None
    replace = interp.lookasides.get(function)
    return None if replace is None else ((), replace)


def _hashed_get(table: dict[Any, Any], key: Any) -> Any:
    kind = type(key)
    if kind in _HASHABLE_CALLABLES or kind is FunctionType:
        return table.get(key)
    return None


def _call_slot(interp: Any, function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Calls a bound slot such as `x.__init__`; its look-aside is that of the slot in the class."""
    name = function.__name__
    if name in interp.method_lookaside_names:
        receiver = function.__self__
        replace = _hashed_get(interp.lookasides, function.__objclass__.__dict__.get(name))
        if replace is not None:
            return replace(interp, receiver, *arguments, **keywords)
    if name == "__call__":
        receiver = function.__self__
        if is_class(receiver):
            return create_instance(interp, receiver, arguments, keywords)
        if type(receiver) is FunctionType:
            return call_value(interp, receiver, arguments, keywords)
    return interp.call_natively(function, arguments, keywords)


def call_function(
    interp: Any, function: FunctionType, arguments: Sequence[Any], keywords: Mapping[str, Any] = _NO_KEYWORDS
) -> Any:
    """Calls a Python function."""
    program = interp.programs.get(id(function.__code__))
    if not program:
        program = interp.admit(function)
        if program is None:
            replace = interp.lookasides.get(function)
            if replace is not None:
                return replace(interp, *arguments, **keywords)
            program = interp.admit(function, despite_lookaside=True)
            if program is None:
                return interp.call_natively(function, arguments, keywords)
    tracker = interp.tracker
    if tracker is not None:
        tracker.enter_function(function)
    stack = bind(program, function, arguments, keywords)
    if stack is None:
        # The arguments do not fit; the native call fails with CPython's own words.
        return function(*arguments, **keywords)
    if tracker is not None and (function.__defaults__ or function.__kwdefaults__):
        stack = _seen(tracker, stack)
    del arguments  # or they would outlive the variables of the frame
    frame = Frame(interp, program, function, function.__globals__, function.__builtins__, stack)  # type: ignore[attr-defined]
    del stack
    if not program.is_optimized:
        frame.names = function.__globals__
    if program.suspends:
        return suspended(frame, function.__name__, function.__qualname__)
    return run(frame)


def _seen(tracker: Any, values: Iterable[Any]) -> list[Any]:
    """What the program is to see of values that a function or a partial holds."""
    wrapped_types = tracker.wrapped_types
    return [tracker.wrap(value) if type(value) in wrapped_types else value for value in values]


def run_code(
    interp: Any,
    code: CodeType,
    global_names: dict[str, Any],
    builtins: dict[str, Any],
    local_names: Any,
    closure: tuple[Any, ...] | None = None,
) -> Any:
    """Executes a code object that is no function's body: a module, a class body, the argument of `exec`."""
    program = interp.program(code)
    function = FunctionType(code, global_names, code.co_name, None, closure) if closure else None
    frame = Frame(interp, program, function, global_names, builtins, list(program.tail))
    frame.names = local_names
    frame.kept_code = code
    if program.suspends:
        return suspended(frame, code.co_name, code.co_name)
    return run(frame)


def instantiate(interp: Any, cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Calls a class: the metaclass's `__call__`, `__new__` and `__init__`, interpreted where they are Python."""
    metaclass = type(cls)
    if metaclass is not type:
        metaclass_call = type_lookup(metaclass, "__call__")
        if type(metaclass_call) is FunctionType:
            return call_function(interp, metaclass_call, (cls, *arguments), keywords)
        if metaclass_call is not _TYPE_CALL:
            return interp.call_natively(cls, arguments, keywords)
    return create_instance(interp, cls, arguments, keywords)


_TYPE_CALL = type.__dict__["__call__"]


def create_instance(interp: Any, cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What `type.__call__` does."""
    new = type_lookup(cls, "__new__")
    init = type_lookup(cls, "__init__")
    if type(new) is staticmethod:
        new = new.__func__
    python_new = type(new) is FunctionType
    if not python_new and type(init) is not FunctionType:
        return interp.call_natively(cls, arguments, keywords)
    if cls is type:
        return interp.call_natively(cls, arguments, keywords)
    if python_new:
        instance = call_function(interp, new, (cls, *arguments), keywords)
    else:
        instance = cls.__new__(cls, *arguments, **keywords)
    actual = type(instance)
    if actual is not cls:
        if cls not in actual.__mro__:
            return instance
        init = type_lookup(actual, "__init__")
    if type(init) is FunctionType:
        result = call_function(interp, init, (instance, *arguments), keywords)
    else:
        result = actual.__init__(instance, *arguments, **keywords)
    if result is not None:
        raise TypeError(f"__init__() should return None, not '{type(result).__name__}'")
    return instance
