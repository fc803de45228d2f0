"""The local variables of a frame as a mapping: what `locals()` and `frame.f_locals` return.

Up to 3.12 a function's frame keeps one dictionary, which each access brings up to date and which may hold more than
variables.  From 3.13 on `locals()` returns a new dictionary each time, and `f_locals` a `FrameLocalsProxy` that reads
and writes the variables themselves.  Class bodies and modules have their namespace.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Iterator
from types import CellType
from typing import TYPE_CHECKING, Any

from .null import NULL

if TYPE_CHECKING:
    from .frame import Frame


class _Variable:
    """One local variable of a frame: in a slot of its stack, or in a cell."""

    __slots__ = ("cell", "slot", "stack")

    def __init__(self, stack: list[Any], slot: int, cell: Any) -> None:
        self.stack = stack
        self.slot = slot
        self.cell = cell

    def read(self) -> Any:
        if self.cell is None:
            return self.stack[self.slot]
        try:
            return self.cell.cell_contents
        except ValueError:
            return NULL

    def write(self, value: Any) -> None:
        if self.cell is None:
            self.stack[self.slot] = value
        else:
            self.cell.cell_contents = value


def variables(frame: Frame) -> dict[str, _Variable]:
    """The variables that a frame's code names, bound or not."""
    program, stack = frame.program, frame.stack
    found: dict[str, _Variable] = {}
    if not stack:  # cleared
        return found
    for slot, name in program.visible_locals:
        value = stack[slot]
        is_cell = slot in program.cell_slots and type(value) is CellType
        found[name] = _Variable(stack, slot, value if is_cell else None)
    closure = frame.function.__closure__ if frame.function is not None else None
    for name, cell in zip(program.code.co_freevars, closure or ()):
        found[name] = _Variable(stack, 0, cell)
    return found


def values_of(frame: Frame) -> dict[str, Any]:
    """The variables that have values."""
    values = {name: variable.read() for name, variable in variables(frame).items()}
    return {name: value for name, value in values.items() if value is not NULL}


def namespace_of(frame: Frame) -> Any:
    """The namespace of a class body or module."""
    # From 3.12 on, variables of comprehensions in module and class code live in slots while these run.
    stack = frame.stack
    hidden = {name: stack[slot] for slot, name in frame.program.visible_locals if stack[slot] is not NULL}
    return {**frame.names, **hidden} if hidden else frame.names


def kept_dictionary(frame: Frame) -> dict[str, Any]:
    """Up to 3.12: the dictionary of a function's frame, brought up to date."""
    kept = frame.kept_locals
    if kept is None:
        kept = frame.kept_locals = {}
    for name, variable in variables(frame).items():
        value = variable.read()
        if value is NULL:
            kept.pop(name, None)
        else:
            kept[name] = value
    return kept


def new_dictionary(frame: Frame) -> dict[str, Any]:
    """From 3.13 on: the variables, and what was written to `f_locals` besides."""
    return {**values_of(frame), **(frame.kept_locals or {})}


class FrameLocalsProxy:
    """`f_locals` of a function's frame, from 3.13 on."""

    __slots__ = ("_frame",)

    def __init__(self, frame: Any, /) -> None:
        if not hasattr(type(frame), "f_trace_opcodes"):
            raise TypeError(f"expect frame, not {type(frame).__name__}")
        self._frame = frame

    def _variable(self, key: Any) -> _Variable | None:
        hash(key)  # what cannot be hashed cannot be a key
        found = variables(self._frame)
        if type(key) is str:
            return found.get(key)
        return next((variable for name, variable in found.items() if name == key), None)

    def __getitem__(self, key: Any) -> Any:
        variable = self._variable(key)
        value = NULL if variable is None else variable.read()
        if value is NULL and variable is None:
            value = (self._frame.kept_locals or {}).get(key, NULL)
        if value is NULL:
            raise KeyError(f"local variable '{key}' is not defined")
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        variable = self._variable(key)
        if variable is not None:
            variable.write(value)
            return
        if self._frame.kept_locals is None:
            self._frame.kept_locals = {}
        self._frame.kept_locals[key] = value

    def __delitem__(self, key: Any) -> None:
        raise TypeError("cannot remove variables from FrameLocalsProxy")

    def __contains__(self, key: Any) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __reversed__(self) -> list[Any]:
        return self.keys()[::-1]

    def __len__(self) -> int:
        return len(self.copy())

    def __repr__(self) -> str:
        shown = self.copy()
        return repr({key: "..." if value is self else value for key, value in shown.items()}).replace("'...'", "{...}")

    def __eq__(self, other: object) -> Any:
        if isinstance(other, FrameLocalsProxy):
            return self._frame is other._frame
        return self.copy() == other if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, (dict, FrameLocalsProxy)):
            return NotImplemented
        return {**self.copy(), **dict(other)}

    def __ror__(self, other: Any) -> Any:
        if not isinstance(other, (dict, FrameLocalsProxy)):
            return NotImplemented
        return {**dict(other), **self.copy()}

    def __ior__(self, other: Any) -> Any:
        if not isinstance(other, (dict, FrameLocalsProxy)):
            return NotImplemented
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("cannot pickle 'FrameLocalsProxy' object")

    def copy(self) -> dict[Any, Any]:
        return new_dictionary(self._frame)

    def keys(self) -> list[Any]:
        return list(self.copy())

    def values(self) -> list[Any]:
        return list(self.copy().values())

    def items(self) -> list[tuple[Any, Any]]:
        return list(self.copy().items())

    def get(self, key: Any, default: Any = None, /) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: Any, default: Any = None, /) -> Any:
        try:
            return self[key]
        except KeyError:
            self[key] = default
            return default

    def update(self, other: Any, /) -> None:
        if not isinstance(other, (dict, FrameLocalsProxy)):
            raise TypeError("update() argument must be dict or another FrameLocalsProxy")
        for key, value in dict(other).items():
            self[key] = value


collections.abc.Mapping.register(FrameLocalsProxy)
