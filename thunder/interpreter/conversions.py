"""`str()`, `repr()`, `ascii()` and `format()` with the special methods of Python classes interpreted."""

from __future__ import annotations

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


def repr_of(interp: Any, value: Any) -> str:
    """`repr(value)`."""
    method = python_method(type(value), "__repr__")
    return repr(_with_items_lent(interp, value)) if method is None else repr(_Shown(interp.call(method, value)))


def ascii_of(interp: Any, value: Any) -> str:
    """`ascii(value)`."""
    method = python_method(type(value), "__repr__")
    return ascii(value) if method is None else ascii(_Shown(interp.call(method, value)))


def str_of(interp: Any, value: Any) -> str:
    """`str(value)`."""
    method = python_method(type(value), "__str__")
    if method is not None:
        return str(_Shown(interp.call(method, value)))
    if type(value).__str__ is object.__str__:
        return repr_of(interp, value)
    return str(_with_items_lent(interp, value))


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
    cls = type(value)
    if cls in (tuple, list, dict):
        if id(value) in within:
            return value
        within = (*within, id(value))
        items = list(value.values()) if cls is dict else list(value)
        read = [lent(interp, item, within) for item in items]
        if all(new is old for new, old in zip(read, items)):
            return value
        return dict(zip(value, read)) if cls is dict else cls(read)
    if cls in PLAIN_TYPES or not (python_method(cls, "__str__") or python_method(cls, "__repr__")):
        return value
    return _Lent(interp, value)


def format_of(interp: Any, value: Any, specification: str) -> str:
    """`format(value, specification)`."""
    method = python_method(type(value), "__format__")
    if method is not None:
        return format(_Shown(interp.call(method, value, specification)), "")
    if specification == "" and type(value).__format__ is object.__format__:
        return str_of(interp, value)
    return format(_with_items_lent(interp, value), specification)


def _with_items_lent(interp: Any, value: Any) -> Any:
    """The value for its class's own method in C, which shows the items of a container."""
    return lent(interp, value) if type(value) in (list, dict, tuple) else value
