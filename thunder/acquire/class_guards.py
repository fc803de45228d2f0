"""Guards on classes: what an attribute look-up finds in them, their bases, and the class of an object.

Input: look-ups that the interpreter or the tracker makes.  Output: guards that the classes still give the same.
Classes that cannot be changed (those of C modules) need none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses import FakeTensor

from thunder.acquire.guards import Prologue, absent, same_value, type_lookup

_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


def is_mutable_class(kind: type) -> bool:
    """Whether attributes of the class could be assigned between two calls."""
    return not kind.__flags__ & _IMMUTABLE_TYPE


def super_lookup(this_class: type, self_class: type, name: str) -> Any:
    """What `super(this_class, instance_of_self_class)` finds for `name`, no descriptor called."""
    order = self_class.__mro__
    for owner in order[order.index(this_class) + 1 :]:
        found = owner.__dict__.get(name, absent)
        if found is not absent:
            return found
    return absent


def _namespace(kind: type) -> list[Any]:
    """The attributes of a class, names and values in turn, without the note that copying its first object leaves."""
    return [part for item in kind.__dict__.items() if item[0] != "__slotnames__" for part in item]


def same_namespace(kind: type, content: list[Any]) -> bool:
    """Whether a class has just these attributes: names and values in turn."""
    found = _namespace(kind)
    return len(found) == len(content) and all(map(same_value, found, content))


class ClassGuards:
    """Guards on classes, each made once.

    Args:
        prologue: receives them.
    """

    def __init__(self, prologue: Prologue) -> None:
        self.prologue = prologue
        self._written: set[tuple[type, str]] = set()
        self._names_written: set[str] = set()
        self._seen: set[tuple[Any, ...]] = set()

    def written(self, kind: type, name: str) -> None:
        """The program is about to assign `kind.name`: from now on a look-up says nothing about what was there."""
        self._written.add((kind, name))
        self._names_written.add(name)

    def lookup(self, kind: type, name: str) -> None:
        """`name` was looked up in the classes of `kind`."""
        if issubclass(kind, FakeTensor):  # what tensors are in programs with symbolic sizes
            kind = torch.Tensor
        key = (kind, name)
        if key in self._seen:
            return
        self._seen.add(key)
        if not is_mutable_class(kind):
            return
        if name in self._names_written:
            self._own_attributes(kind.__mro__, name)
        else:
            self.prologue.type_attribute(kind, name, type_lookup(kind, name))

    def super_lookup(self, this_class: type, self_class: type, name: str) -> None:
        """`super(this_class, ...).name` was looked up."""
        key = (this_class, self_class, name)
        if key in self._seen or not is_mutable_class(self_class):
            return
        self._seen.add(key)
        order = self_class.__mro__
        if name in self._names_written:
            self._own_attributes(order[order.index(this_class) + 1 :], name)
            return
        bind = self.prologue.bind
        self.prologue.check(
            f"{bind(super_lookup)}({bind(this_class)}, {bind(self_class)}, {name!r})"
            f" is {bind(super_lookup(this_class, self_class, name))}",
            f"{self_class.__qualname__}.{name} after {this_class.__qualname__} is unchanged",
        )

    def namespace(self, kind: type) -> None:
        """All attributes of a class were asked for."""
        key = (kind, "__dict__", "namespace")
        if key in self._seen or not is_mutable_class(kind):
            return
        self._seen.add(key)
        bind = self.prologue.bind
        self.prologue.check(
            f"{bind(same_namespace)}({bind(kind)}, {bind(_namespace(kind))})",
            f"attributes of {kind.__qualname__} are unchanged",
        )

    def own_attribute(self, kind: type, name: str) -> None:
        """Whether the class itself has `name` matters: it is about to be deleted."""
        self._own_attributes((kind,), name)

    def _own_attributes(self, order: tuple[type, ...], name: str) -> None:
        """Guards class by class, up to the one in which the name is found; those that were written are left out."""
        bind = self.prologue.bind
        for owner in order:
            found = owner.__dict__.get(name, absent)
            if (owner, name) not in self._written and is_mutable_class(owner):
                self.prologue.check(
                    f"{bind(owner)}.__dict__.get({name!r}, _absent) is {bind(found)}",
                    f"{owner.__qualname__}.{name} is unchanged",
                )
            if found is not absent:
                return

    def registered(self, kind: type, base: type) -> None:
        """Whether a class is registered with an abstract class was asked for."""
        key = (kind, "", base)
        if key in self._seen:
            return
        self._seen.add(key)
        bind = self.prologue.bind
        self.prologue.check(
            f"{bind(issubclass)}({bind(kind)}, {bind(base)}) is {issubclass(kind, base)}",
            f"whether {kind.__qualname__} is a {base.__qualname__}",
        )

    def order(self, kind: type) -> None:
        """The bases of a class were asked for, by `isinstance` or through `__mro__`."""
        key = (kind, "", "order")
        if key in self._seen or not is_mutable_class(kind):
            return
        self._seen.add(key)
        bind = self.prologue.bind
        self.prologue.check(
            f"{bind(kind)}.__mro__ is {bind(kind.__mro__)}", f"bases of {kind.__qualname__} are unchanged"
        )
