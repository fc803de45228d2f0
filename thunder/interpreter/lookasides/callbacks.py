"""Builtins that call back Python code: the code that they would call natively runs interpreted.

Two ways: a function argument is wrapped so that the native code calls the interpreter, and an iterable argument with
Python methods is replaced by a native iterator over it.  Protocols (`len`, `iter`, `isinstance`, ...) are carried out
by the interpreter when the special method is a Python function.
"""

from __future__ import annotations

import builtins
import functools
import itertools
from abc import ABCMeta
from collections.abc import Callable
from types import FunctionType
from typing import Any

from .. import operators
from ..conversions import ascii_of, format_of, lent, repr_of, str_of
from ..frame import NULL
from ..iteration import get_iterator, native_iterable, next_value
from ..lookup import PLAIN_TYPES, python_method, type_lookup
from ..operations import BINARY_OPERATIONS, COMPARISONS, Operation


def _with_function_first(target: Any) -> Callable[..., Any]:
    """`target(function, *iterables)`"""

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        if arguments:
            function, *iterables = arguments
            arguments = (
                interp.native_callable(function),
                *(native_iterable(interp, iterable) for iterable in iterables),
            )
        return interp.call_natively(target, arguments, keywords)

    return replacement


def _reduce(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    if len(arguments) > 1:
        function, iterable, *initial = arguments
        arguments = (interp.native_callable(function), native_iterable(interp, iterable), *initial)
    return interp.call_natively(functools.reduce, arguments, keywords)


class _Ordered:
    """Lends a value whose class orders its objects in Python to native code that compares."""

    __slots__ = ("interp", "value")

    def __init__(self, interp: Any, value: Any) -> None:
        self.interp, self.value = interp, value

    def __lt__(self, other: Any) -> bool:
        return _in_order(self.interp, self.value, other, COMPARISONS["<"])

    def __gt__(self, other: Any) -> bool:
        return _in_order(self.interp, self.value, other, COMPARISONS[">"])


def _in_order(interp: Any, left: Any, right: Any, operation: Operation) -> bool:
    if type(right) is _Ordered:
        right = right.value
    if type(left) is type(right) and type(left) in (tuple, list):
        for first, second in zip(left, right):
            if first is not second and not interp.truth(operators.compare(interp, first, second, operators.EQUAL)):
                return _in_order(interp, first, second, operation)
        left, right = len(left), len(right)
    return bool(interp.truth(operators.compare(interp, left, right, operation)))


def _orders_in_python(value: Any) -> bool:
    cls = type(value)
    if cls in (tuple, list):
        return any(map(_orders_in_python, value))
    return cls not in PLAIN_TYPES and bool(python_method(cls, "__lt__") or python_method(cls, "__gt__"))


def _ordering_key(interp: Any, key: Any) -> Any:
    """The key of a sort, such that the methods that compare what it answers run interpreted."""
    if key is not None:
        key = interp.native_callable(key)
    if interp.tracker is None:
        return key

    def ordering(item: Any) -> Any:
        value = item if key is None else key(item)
        return _Ordered(interp, value) if _orders_in_python(value) else value

    return ordering


def _with_key(target: Any) -> Callable[..., Any]:
    """`target(iterable, ..., key=function)`"""

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        keywords["key"] = _ordering_key(interp, keywords.get("key"))
        if len(arguments) == 1:
            arguments = (native_iterable(interp, arguments[0]),)
        return interp.call_natively(target, arguments, keywords)

    return replacement


def _with_iterables(target: Any) -> Callable[..., Any]:
    """`target(*iterables)`"""

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        arguments = tuple(native_iterable(interp, argument) for argument in arguments)
        return interp.call_natively(target, arguments, keywords)

    return replacement


def _with_function_second(target: Any, keyword: str) -> Callable[..., Any]:
    """`target(iterable, function, ...)`, where the function may come by keyword"""

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        if arguments:
            arguments = (native_iterable(interp, arguments[0]), *arguments[1:])
        if len(arguments) > 1:
            arguments = (arguments[0], interp.native_callable(arguments[1]), *arguments[2:])
        if keyword in keywords:
            keywords[keyword] = interp.native_callable(keywords[keyword])
        return interp.call_natively(target, arguments, keywords)

    return replacement


def _sort(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    keywords["key"] = _ordering_key(interp, keywords.get("key"))
    return interp.call_natively(list.sort, arguments, keywords)


def _cmp_to_key(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    arguments = tuple(map(interp.native_callable, arguments))
    keywords = {name: interp.native_callable(value) for name, value in keywords.items()}
    return interp.call_natively(functools.cmp_to_key, arguments, keywords)


def _method_with_iterable(target: Any) -> Callable[..., Any]:
    """`receiver.method(iterable)`"""

    def replacement(interp: Any, receiver: Any, *arguments: Any, **keywords: Any) -> Any:
        if len(arguments) == 1:
            arguments = (native_iterable(interp, arguments[0]),)
        return interp.call_natively(target, (receiver, *arguments), keywords)

    return replacement


def _protocol(target: Any, method_name: str, interpreted: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`target(obj)`, carried out by `interpreted` when the class has the special method in Python"""

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        if len(arguments) == 1 and not keywords:
            cls = type(arguments[0])
            if cls not in PLAIN_TYPES and python_method(cls, method_name) is not None:
                return interpreted(interp, arguments[0])
        return interp.call_natively(target, arguments, keywords)

    return replacement


def _iter(interp: Any, *arguments: Any) -> Any:
    if len(arguments) == 1:
        tracker = interp.tracker
        if tracker is not None and type(arguments[0]) in tracker.container_types:
            tracker.touch(arguments[0])
        return get_iterator(interp, arguments[0])
    if len(arguments) == 2:
        arguments = (interp.native_callable(arguments[0]), arguments[1])
    return interp.call_natively(iter, arguments, {})


def _next(interp: Any, *arguments: Any) -> Any:
    if arguments and len(arguments) < 3:
        method = python_method(type(arguments[0]), "__next__")
        if method is not None:
            if len(arguments) == 1:
                return interp.call(method, arguments[0])
            value = next_value(interp, arguments[0])
            return arguments[1] if value is NULL else value
    return interp.call_natively(next, arguments, {})


def _bool(interp: Any, *arguments: Any) -> bool:
    if len(arguments) != 1:
        return bool(*arguments)
    obj = arguments[0]
    tracker = interp.tracker
    if tracker is None or (type(obj) in PLAIN_TYPES and type(obj) not in tracker.container_types):
        return operators.truth(interp, obj)
    return interp.tracker.truth(obj)


def _str(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    if len(arguments) == 1 and not keywords and type(arguments[0]) not in PLAIN_TYPES:
        obj = arguments[0]
        if python_method(type(obj), "__str__") or python_method(type(obj), "__repr__"):
            return str_of(interp, obj)
    if len(arguments) == 1 and type(arguments[0]) in (list, tuple, dict):
        if interp.tracker is not None:
            interp.tracker.touch_deeply(arguments[0])
        arguments = (lent(interp, arguments[0]),)
    return interp.call_natively(str, arguments, keywords)


def _format(interp: Any, *arguments: Any) -> Any:
    if 1 <= len(arguments) <= 2:
        cls = type(arguments[0])
        if cls not in PLAIN_TYPES and any(python_method(cls, name) for name in ("__format__", "__str__", "__repr__")):
            return format_of(interp, arguments[0], *(arguments[1:] or ("",)))
        if cls in (list, tuple, dict) and len(arguments) == 1:
            return _str(interp, arguments[0])
    return interp.call_natively(format, arguments, {})


def _repr(interp: Any, *arguments: Any) -> Any:
    if len(arguments) == 1 and type(arguments[0]) in (list, tuple, dict):
        if interp.tracker is not None:
            interp.tracker.touch_deeply(arguments[0])
        arguments = (lent(interp, arguments[0]),)
    elif len(arguments) == 1 and python_method(type(arguments[0]), "__repr__"):
        return repr_of(interp, arguments[0])
    return interp.call_natively(repr, arguments, {})


def _sum(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    if len(arguments) in (1, 2) and not keywords.keys() - {"start"}:
        items = interp.call(list, arguments[0])
        if any(type(item) not in PLAIN_TYPES and _adds_in_python(item) for item in items):
            total = arguments[1] if len(arguments) == 2 else keywords.get("start", 0)
            for item in items:
                total = operators.binary(interp, total, item, BINARY_OPERATIONS["+"])
            return total
        arguments = (items, *arguments[1:])
    return interp.call_natively(sum, arguments, keywords)


def _adds_in_python(value: Any) -> bool:
    return bool(python_method(type(value), "__add__") or python_method(type(value), "__radd__"))


def _print(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    shown = [str_of(interp, argument) if type(argument) not in PLAIN_TYPES else argument for argument in arguments]
    return interp.call_natively(print, shown, keywords)


def _check(interp: Any, hook: str, native: Any, obj: Any, classes: Any) -> bool:
    if type(classes) is tuple:
        return any(_check(interp, hook, native, obj, cls) for cls in classes)
    metaclass = type(classes)
    if metaclass is type or metaclass is ABCMeta or (hook == "__instancecheck__" and type(obj) is classes):
        return interp.call_natively(native, (obj, classes), {})
    method = type_lookup(metaclass, hook)
    if type(method) is FunctionType and method is not ABCMeta.__dict__.get(hook):
        return interp.truth(interp.call(method, classes, obj))
    return interp.call_natively(native, (obj, classes), {})


def _isinstance(interp: Any, *arguments: Any) -> bool:
    if len(arguments) != 2:
        return isinstance(*arguments)
    return _check(interp, "__instancecheck__", isinstance, *arguments)


def _issubclass(interp: Any, *arguments: Any) -> bool:
    if len(arguments) != 2:
        return issubclass(*arguments)
    return _check(interp, "__subclasscheck__", issubclass, *arguments)


def _call_special(method_name: str) -> Callable[[Any, Any], Any]:
    def interpreted(interp: Any, obj: Any) -> Any:
        return interp.call(type_lookup(type(obj), method_name), obj)

    return interpreted


class _Hash:
    """Lends the result of `__hash__` to the native `hash`, which checks it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> Any:
        return self.value


def _hash(interp: Any, obj: Any) -> int:
    return hash(_Hash(interp.call(type_lookup(type(obj), "__hash__"), obj)))


def callback_lookasides() -> dict[Any, Callable[..., Any]]:
    """The table of these look-asides."""
    return dict(_TABLE)


def _make_table() -> dict[Any, Callable[..., Any]]:
    table: dict[Any, Callable[..., Any]] = {
        builtins.sorted: _with_key(sorted),
        builtins.min: _with_key(min),
        builtins.max: _with_key(max),
        list.sort: _sort,
        functools.cmp_to_key: _cmp_to_key,
        functools.reduce: _reduce,
        itertools.accumulate: _with_function_second(itertools.accumulate, "func"),
        itertools.groupby: _with_function_second(itertools.groupby, "key"),
        list.extend: _method_with_iterable(list.extend),
        set.update: _method_with_iterable(set.update),
        str.join: _method_with_iterable(str.join),
        builtins.iter: _iter,
        builtins.next: _next,
        builtins.bool: _bool,
        builtins.str: _str,
        builtins.format: _format,
        builtins.print: _print,
        builtins.isinstance: _isinstance,
        builtins.issubclass: _issubclass,
        builtins.len: _protocol(len, "__len__", operators.length),
        builtins.repr: _repr,
        builtins.sum: _sum,
        builtins.ascii: _protocol(ascii, "__repr__", ascii_of),
        builtins.hash: _protocol(hash, "__hash__", _hash),
        builtins.abs: _protocol(abs, "__abs__", _call_special("__abs__")),
        builtins.reversed: _protocol(reversed, "__reversed__", _call_special("__reversed__")),
    }
    for target in (
        map,
        filter,
        itertools.filterfalse,
        itertools.starmap,
        itertools.takewhile,
        itertools.dropwhile,
    ):
        table[target] = _with_function_first(target)
    for constructor in (list, tuple, set, frozenset, enumerate, zip, any, all, itertools.chain):
        table[constructor] = _with_iterables(constructor)
    return table


_TABLE = _make_table()
"""Made once: a program may put something else in the place of a builtin."""
