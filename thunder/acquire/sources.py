"""Where values come from: access paths from the call's arguments, or from objects that are constant.

A `Source` says how the prologue reaches a value again at the next call.  Roots are the call's arguments
(`args`, `kwargs`) and constants (an object that is held and whose identity earlier guards have established).
Children are made by `child(kind, key)` and are unique per (kind, key), so that two reads of the same place share
one Source.  A Source is *stable* when its value is the very same object at every call whose guards pass.
"""

from __future__ import annotations

from typing import Any

ROOT, CONSTANT, ITEM, INSTANCE_DICT, ATTRIBUTE, CELL, CLOSURE, KEY, GRAD, CALL = (
    "root", "constant", "item", "__dict__", "attribute", "cell", "closure", "key", "grad", "call",
)  # fmt: skip


class Source:
    """One place that the prologue can read.

    Attributes:
        kind: how it is read from `parent`: item, instance dict, attribute, cell contents, closure, dict key,
            or what a call of it answers (`key` are the arguments' texts).
        key: subscript, attribute name or index.
        constant: for constants, the object itself.
        seen: whether a guard for the value at this place exists.
        value: the value found there during acquisition.
        written: whether the program has changed it since.
        label: the user's name for it, where there is one (a parameter).
        origin: for a constant, the place where it was found.
    """

    __slots__ = (
        "parent",
        "kind",
        "key",
        "constant",
        "stable",
        "children",
        "seen",
        "value",
        "written",
        "label",
        "origin",
    )

    def __init__(self, kind: str, parent: Source | None = None, key: Any = None, constant: Any = None) -> None:
        self.kind = kind
        self.parent = parent
        self.key = key
        self.constant = constant
        self.stable = kind == CONSTANT
        self.children: dict[tuple[str, Any], Source] = {}
        self.seen = False
        self.value: Any = None
        self.written = False
        self.label: str | None = None
        self.origin: Source | None = None

    def child(self, kind: str, key: Any = None) -> Source:
        """The place reached from here by `kind` and `key`."""
        # True, 1 and 1.0 are equal keys of a dict as well, but an attribute or index keeps its type in print.
        found = self.children.get((kind, key))
        if found is None:
            found = self.children[kind, key] = Source(kind, self, key)
        return found

    def describe(self) -> str:
        """The place as a user would write it: `args[0].layers[2].weight`, `model.eps`."""
        if self.label is not None:
            return self.label
        if self.kind == ROOT:
            return str(self.key)
        if self.kind == CONSTANT:
            return describe_object(self.constant) if self.origin is None else self.origin.describe()
        assert self.parent is not None
        owner = self.parent.describe()
        if self.kind == INSTANCE_DICT:
            return owner
        if self.kind == ITEM:
            if self.parent.kind == INSTANCE_DICT or (owner.endswith("globals") and isinstance(self.key, str)):
                return f"{owner}.{self.key}"
            return f"{owner}[{self.key!r}]"
        if self.kind == KEY:
            return f"key {self.key} of {owner}"
        if self.kind == CELL:
            return f"the variable {self.key!r} of the enclosing function" if self.key else owner
        if self.kind == CLOSURE:
            return f"{owner}.__closure__[{self.key}]"
        if self.kind == CALL:
            return f"{owner}({self.key})"
        return f"{owner}.{self.key}"

    def __repr__(self) -> str:
        return f"Source({self.describe()})"


def constant(obj: Any, origin: Source | None = None) -> Source:
    """The root for an object that is held by the prologue."""
    source = Source(CONSTANT, constant=obj)
    source.origin = origin
    source.value, source.seen = obj, True
    return source


def describe_object(obj: Any) -> str:
    """A short name for an object in messages: its qualified name, or its class."""
    if isinstance(obj, dict):
        name = obj.get("__name__")
        return f"{name} globals" if isinstance(name, str) else f"a dict of {len(obj)} items"
    name = getattr(type(obj), "__qualname__", "object") if not isinstance(obj, type) else None
    try:
        own = obj.__qualname__ if isinstance(obj, type) or callable(obj) else obj.__name__
    except AttributeError:
        own = None
    return own if isinstance(own, str) else f"<{name}>"
