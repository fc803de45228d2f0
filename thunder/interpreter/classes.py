"""The `class` statement: what `__build_class__` does, with the body and every hook interpreted."""

from __future__ import annotations

from types import CellType, FunctionType
from typing import Any

from .calling import call_value
from .frame import NULL, Frame
from .lookup import is_class, type_lookup
from .loop import run


def build_class(interp: Any, body: Any, name: Any, /, *bases: Any, metaclass: Any = NULL, **keywords: Any) -> Any:
    """The look-aside of `builtins.__build_class__`."""
    if type(body) is not FunctionType:
        raise TypeError("__build_class__: func must be a function")
    if not isinstance(name, str):
        raise TypeError("__build_class__: name is not a string")
    resolved = resolve_bases(interp, bases)
    if metaclass is NULL:
        metaclass = type(resolved[0]) if resolved else type
    if is_class(metaclass):
        metaclass = most_derived_metaclass(metaclass, resolved)
    try:
        prepare = interp.getattr(metaclass, "__prepare__")
    except AttributeError:
        namespace: Any = {}
    else:
        namespace = call_value(interp, prepare, (name, resolved), keywords)
        if type_lookup(type(namespace), "__getitem__") is NULL:
            what = metaclass.__name__ if is_class(metaclass) else "<metaclass>"
            raise TypeError(f"{what}.__prepare__() must return a mapping, not {type(namespace).__name__}")
    program = interp.program(body.__code__)
    frame = Frame(interp, program, body, body.__globals__, body.__builtins__, list(program.tail))  # type: ignore[attr-defined]
    frame.names = namespace
    cell = run(frame)
    del frame
    if resolved is not bases:
        interp.setitem(namespace, "__orig_bases__", bases)
    cls = call_value(interp, metaclass, (name, resolved, namespace), keywords)
    if is_class(cls) and type(cell) is CellType:
        check_class_cell(cell, name, cls)
    return cls


def check_class_cell(cell: CellType, name: str, cls: type) -> None:
    """`type.__new__` must have put the class into the cell that `super()` and `__class__` use."""
    try:
        content = cell.cell_contents
    except ValueError:
        raise RuntimeError(
            f"__class__ not set defining {name!r} as {cls!r}. Was __classcell__ propagated to type.__new__?"
        ) from None
    if content is not cls:
        raise TypeError(f"__class__ set to {content!r} defining {name!r} as {cls!r}")


def resolve_bases(interp: Any, bases: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replaces bases that are no classes by what their `__mro_entries__` answers."""
    result: list[Any] = []
    changed = False
    for base in bases:
        if is_class(base):
            result.append(base)
            continue
        try:
            entries_of = interp.getattr(base, "__mro_entries__")
        except AttributeError:
            result.append(base)
            continue
        entries = call_value(interp, entries_of, (bases,))
        if not isinstance(entries, tuple):
            raise TypeError("__mro_entries__ must return a tuple")
        changed = True
        result.extend(entries)
    return tuple(result) if changed else bases


def most_derived_metaclass(metaclass: type, bases: tuple[Any, ...]) -> type:
    """The metaclass that derives from all the bases' metaclasses."""
    winner = metaclass
    for base in bases:
        candidate = type(base)
        if candidate in winner.__mro__:
            continue
        if winner in candidate.__mro__:
            winner = candidate
            continue
        raise TypeError(
            "metaclass conflict: the metaclass of a derived class must be a (non-strict) subclass of the "
            "metaclasses of all its bases"
        )
    return winner
