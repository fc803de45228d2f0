"""`str()`, `repr()`, `ascii()` and `format()` with the special methods of Python classes interpreted."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from .lookup import PLAIN_TYPES, python_method


class _Shown:
    """Lends text to the native functions, which check and post-process it as CPython does."""

    __slots__ = ("text",)

    def __init__(self, text: Any) -> None:
        self.text = text

    def __repr__(self) -> Any:
        return self.text

    def __str__(self) -> Any:
        return self.text

    def __format__(self, specification: str) -> Any:
        return self.text


def _readable(interp: Any, value: Any) -> Any:
    """What the text of a value is made of: a tracker may have another value stand for it."""
    return value if type(value) in PLAIN_TYPES or interp.tracker is None else interp.tracker.for_text(value)


def repr_of(interp: Any, value: Any) -> str:
    """`repr(value)`."""
    value = _readable(interp, value)
    method = python_method(type(value), "__repr__")
    return _shown(interp, value, repr) if method is None else repr(_Shown(interp.call(method, value)))


def ascii_of(interp: Any, value: Any) -> str:
    """`ascii(value)`."""
    value = _readable(interp, value)
    method = python_method(type(value), "__repr__")
    return ascii(value) if method is None else ascii(_Shown(interp.call(method, value)))


def str_of(interp: Any, value: Any) -> str:
    """`str(value)`."""
    value = _readable(interp, value)
    method = python_method(type(value), "__str__")
    if method is not None:
        return str(_Shown(interp.call(method, value)))
    if type(value).__str__ is object.__str__:
        return repr_of(interp, value)
    return _shown(interp, value, str)


class _Lent:
    """Lends an object to native formatting; its own methods run interpreted."""

    __slots__ = ("interp", "value")

    def __init__(self, interp: Any, value: Any) -> None:
        self.interp, self.value = interp, value

    def __str__(self) -> str:
        return str_of(self.interp, self.value)

    def __repr__(self) -> str:
        return repr_of(self.interp, self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __getitem__(self, key: Any) -> Any:
        return lent(self.interp, self.interp.getitem(self.value, key))


def lent(interp: Any, value: Any, within: tuple[int, ...] = ()) -> Any:
    """The value, or something that reads like it where its class has methods for that in Python."""
    value = _readable(interp, value)
    cls = type(value)
    if cls in (tuple, list, dict):
        if id(value) in within:
            return value if interp.tracker is None else _Lent(interp, value)
        copied = _copied(interp, value, within)
        if copied is not value and interp.tracker is not None and (within or cls is not tuple):
            return _Lent(interp, value)  # shown by `_shown`, which knows what is being shown
        return copied
    if cls in PLAIN_TYPES or not (python_method(cls, "__str__") or python_method(cls, "__repr__")):
        return value
    return _Lent(interp, value)


def _copied(interp: Any, value: Any, within: tuple[int, ...] = ()) -> Any:
    """The container with its items lent, or itself where none of them needs that."""
    within = (*within, id(value))
    items = list(value.values()) if type(value) is dict else list(value)
    read = [lent(interp, item, within) for item in items]
    if all(new is old for new, old in zip(read, items)):
        return value
    return dict(zip(value, read)) if type(value) is dict else type(value)(read)


def format_of(interp: Any, value: Any, specification: str) -> str:
    """`format(value, specification)`."""
    value = _readable(interp, value)
    method = python_method(type(value), "__format__")
    if method is not None:
        return format(_Shown(interp.call(method, value, specification)), "")
    if specification == "" and type(value).__format__ is object.__format__:
        return str_of(interp, value)
    return _shown(interp, value, lambda shown: format(shown, specification))


def _shown(interp: Any, value: Any, show: Callable[[Any], str]) -> str:
    """What the method of the value's class, in C, shows: `show(value)`, of a container with its items lent.

    A container that holds itself through an item is shown short, as CPython does: what is lent is another object.
    """
    short = _SHORT.get(type(value))
    if short is None:
        return show(value)
    shown = _copied(interp, value)
    if shown is value or interp.tracker is None:
        return show(shown)
    key = get_ident(), id(value)
    if key in _being_shown:
        return show(_Shown(short))
    _being_shown.add(key)
    try:
        return show(shown)
    finally:
        _being_shown.discard(key)


_SHORT: dict[type, str] = {list: "[...]", dict: "{...}", tuple: "(...)"}
_being_shown: set[tuple[int, int]] = set()
"""Containers whose text is being made from lent items, by thread."""
