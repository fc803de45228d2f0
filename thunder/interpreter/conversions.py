"""`str()`, `repr()`, `ascii()` and `format()` with the special methods of Python classes interpreted."""

from __future__ import annotations

from typing import Any

from .lookup import python_method


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
    return repr(value) if method is None else repr(_Shown(interp.call(method, value)))


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
    return str(value)


def format_of(interp: Any, value: Any, specification: str) -> str:
    """`format(value, specification)`."""
    method = python_method(type(value), "__format__")
    if method is not None:
        return format(_Shown(interp.call(method, value, specification)), "")
    if specification == "" and type(value).__format__ is object.__format__:
        return str_of(interp, value)
    return format(value, specification)
