"""The user's objects that a program names, which live no longer for it than in plain Python.

Input: the namespace of a prologue, and where each of the user's objects in it was found.  Output: `Constants`, which
says at any time what the names mean (`names`), and holds none of these objects itself: by weak references, and what
has none (dicts, lists, tuples, cells) is read again from the place at which it was found.  A linked program holds all
of them, in the namespace of its function; it can be dropped and linked anew (`Program.relinking`).

Invariants: an object that is gone, or is another one now, is named by `gone`, for which no guard holds.  Reading again
never runs user code.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from thunder._torch_compat import tensor_reference
from thunder.acquire.guards import Prologue, is_plain
from thunder.acquire.sources import ATTRIBUTE, CELL, CLOSURE, CONSTANT, INSTANCE_DICT, ITEM, Source


class _Gone:
    def __repr__(self) -> str:
        return "an object that is gone"


gone = _Gone()
_READ_ERRORS = (LookupError, AttributeError, TypeError, ValueError)
_SUBSCRIPTS: tuple[Any, ...] = (list, tuple)


@dataclass(frozen=True)
class _Place:
    """Where an object without weak references is found again.

    Attributes:
        steps: (kind, key) of each read, from the object of the name `root` on.
        identity, kind: of the object, which must still be the one there.
    """

    root: str
    steps: tuple[tuple[str, Any], ...]
    identity: int
    kind: type

    def read(self, names: dict[str, Any]) -> Any:
        """The object, or `gone`."""
        found = names[self.root]
        try:
            for kind, key in self.steps:
                found = _read(found, kind, key)
        except _READ_ERRORS:
            return gone
        # One that took its place in memory as well is read anew by the guards on its content.
        return found if id(found) == self.identity and type(found) is self.kind else gone


def _read(owner: Any, kind: str, key: Any) -> Any:
    if kind == INSTANCE_DICT:
        return owner.__dict__
    if kind == CELL:
        return owner.cell_contents
    if kind == CLOSURE:
        return owner.__closure__[key]
    if kind == ATTRIBUTE:
        return object.__getattribute__(owner, key)
    if isinstance(owner, dict):  # subscripting one of a derived class may make what is missing
        return dict.get(owner, key, gone)
    for base in _SUBSCRIPTS:
        if isinstance(owner, base):
            return base.__getitem__(owner, key)
    return gone


class Constants:
    """What the names of a prologue mean.

    Args:
        prologue: with all that it binds; what it held is let go.
        sources: of the user's objects that are the same at every call, by id.

    Attributes:
        weak_names: names of objects that may be gone.
    """

    def __init__(self, prologue: Prologue, sources: dict[int, Source]) -> None:
        self._held: dict[str, Any] = {}
        self._references: dict[str, Callable[[], Any]] = {}
        self._items: dict[str, list[Callable[[], Any]]] = {}
        self._places: dict[str, _Place] = {}
        without_references: list[tuple[str, Any]] = []
        for name, obj in prologue.namespace.items():
            if is_plain(obj):
                self._held[name] = obj
            elif id(obj) not in prologue.places_of_held and _is_found_nowhere(sources.get(id(obj))):
                self._held[name] = obj
            elif id(obj) in sources or id(obj) in prologue.places_of_held:
                reference = _reference(obj)
                if reference is None:
                    without_references.append((name, obj))
                else:
                    self._references[name] = reference
            elif type(obj) is list:  # the items of a container, which the prologue compares
                self._items[name] = [_reference(item) or _holding(item) for item in obj]
            else:
                self._held[name] = obj
        for name, obj in without_references:
            found = prologue.places_of_held.get(id(obj)) or sources[id(obj)].origin
            place = None if found is None else self._place(prologue, found, obj)
            if place is None:
                self._held[name] = obj
            else:
                self._places[name] = place

    def _place(self, prologue: Prologue, source: Source, obj: Any) -> _Place | None:
        """How to read `obj` at `source` from what has a name already."""
        steps: list[tuple[str, Any]] = []
        while True:
            if source.kind == CONSTANT:
                name = prologue.name_of(source.constant)
                if name in self._held or name in self._references or name in self._places:
                    return _Place(str(name), tuple(reversed(steps)), id(obj), type(obj))
                if source.origin is None:
                    return None
                source = source.origin
                continue
            if source.kind not in (ITEM, INSTANCE_DICT, CELL, CLOSURE, ATTRIBUTE) or source.parent is None:
                return None
            steps.append((source.kind, source.key))
            source = source.parent

    def names(self) -> dict[str, Any]:
        """Every name and its object, or `gone`."""
        names = dict(self._held)
        for name, reference in self._references.items():
            found = reference()
            names[name] = gone if found is None else found
        for name, references in self._items.items():
            names[name] = [reference() for reference in references]
        for name, place in self._places.items():
            names[name] = place.read(names)
        return names

    def is_complete(self, names: dict[str, Any]) -> bool:
        """Whether all that `names` answered is still there."""
        return not any(names[name] is gone for name in self._references)


def _is_found_nowhere(source: Source | None) -> bool:
    """Whether C code gave the object to the program, which may alone have it (`torch.IntTensor([3])`)."""
    return source is not None and source.kind == CONSTANT and source.origin is None


def _reference(obj: Any) -> Callable[[], Any] | None:
    """A weak reference to an object, or None for one that has none."""
    if isinstance(obj, torch.Tensor):
        return tensor_reference(obj)
    try:
        return weakref.ref(obj)
    except TypeError:
        return None


def _holding(obj: Any) -> Callable[[], Any]:
    return lambda: obj
