"""What the interpreter tells about the user's state, turned into guards, inputs and remembered changes.

The interpreter reports every read and every write of state to one object, the `AcquisitionTracker`.  It is built up
in layers, each with one kind of state: `objects.py` (what is known, and tensors), `containers.py` (items),
`variables.py`, `attributes.py`, and here calls of code that is not interpreted, which may read whatever it is given.
"""

from __future__ import annotations

import itertools
import types
from typing import Any

import torch

from thunder.acquire.attributes import AttributeTracker
from thunder.acquire.guards import Prologue, is_plain, items_of
from thunder.acquire.heap import Heap, instance_dict, is_container, slot_names
from thunder.acquire.objects import CONTAINER_BASES
from thunder.acquire.sources import ITEM
from thunder.errors import UnsupportedError


class AcquisitionTracker(AttributeTracker):
    """Turns reads into guards and inputs, and remembers what is about to change."""

    def __init__(self, prologue: Prologue, heap: Heap, unstable: frozenset[str] = frozenset()) -> None:
        super().__init__(prologue, heap, unstable)
        self._generic_access = {
            "__getattribute__": self.load_generic,
            "__setattr__": self.store_generic,
            "__delattr__": self.delete_generic,
        }

    def call_opaque(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        known = self.known
        if type(function) is types.MethodWrapperType:
            # `super().__setattr__(name, value)` and its like, bound to the object.
            generic: Any = self._generic_access.get(function.__name__)
            if generic is not None and not isinstance(function.__self__, (type, torch.Tensor)):
                return generic(function.__self__, *arguments)
        owner = getattr(function, "__self__", None)
        if owner is None and arguments and type(function) in _UNBOUND:
            owner, arguments_of_method = arguments[0], arguments[1:]
        else:
            arguments_of_method = arguments
        depth = _DEPTHS.get(id(function), 2)
        if isinstance(owner, CONTAINER_BASES):
            depth = _METHOD_DEPTHS.get(function.__name__, 2)
        for argument in (*arguments_of_method, *keywords.values()):
            self._before_opaque(argument, depth)
        if owner is not None and id(owner) in known and is_container(owner):
            self._before_method(owner, function.__name__, arguments_of_method, keywords)
        elif owner is not None and id(owner) in known and function.__name__ in _INSTANCE_READERS:
            self._touch_instance(owner)
        elif isinstance(owner, torch.autograd.graph.Node) and function.__name__ in _NODE_HOOKS:
            raise UnsupportedError(
                f"a hook of the autograd node {owner.name()} is registered, and the program will have other nodes",
                self.recorder.location(),
                "register it on the tensor (tensor.register_hook) or on the module (register_full_backward_hook)",
            )
        return self._wrap_all(function(*arguments, **keywords))

    def _before_opaque(self, argument: Any, depth: int) -> None:
        """Code that is not interpreted gets a container.

        At depth 0 it does not look into it, at 1 it reads the items, at 2 it may read everything and change it.
        """
        if isinstance(argument, CONTAINER_BASES):
            if depth == 1:
                self.touch(argument)
            if depth < 2:
                return
            self.touch_deeply(argument)
            if id(argument) in self.known and is_container(argument):
                self.heap.before_change(argument)
        elif type(argument) in _ITERATORS and id(argument) in self.known:
            raise UnsupportedError(
                f"{self.known[id(argument)].describe()}, a {type(argument).__qualname__}, existed before the call",
                self.recorder.location(),
                "keep a list instead, and make the iterator inside of the compiled function",
            )

    def _touch_instance(self, obj: Any) -> None:
        """All attributes of an object are read."""
        attributes = instance_dict(obj)
        if attributes is not None:
            self.touch_deeply(self.load_generic(obj, "__dict__"))
        for name in slot_names(type(obj)):
            try:
                self.load_generic(obj, name)
            except AttributeError:
                continue

    def _before_method(self, owner: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A method of a known container is about to run: guards what it reads, remembers what it changes."""
        if isinstance(owner, dict):
            if name in _ITEM_READERS and arguments and is_plain(arguments[0]):
                self._before_item_method(owner, name, arguments[0])
                return
            keys = _assigned_keys(name, arguments, keywords)
            if keys is not None:
                for key in keys:
                    self._change_item(owner, key)
                return
        elif isinstance(owner, list) and name in _APPENDING:
            self.heap.before_change(owner)
            return
        if name == "__len__":
            self.length(owner)
            return
        if name in _DEEP_READERS:
            self.touch_deeply(owner)
        else:
            self.touch(owner)
        if name not in _READERS:
            self.heap.before_change(owner)

    def _before_item_method(self, owner: dict[Any, Any], name: str, key: Any) -> None:
        source = self.known[id(owner)]
        place = source.child(ITEM, key)
        if dict.__contains__(owner, key):
            self.read(place, dict.__getitem__(owner, key))
        else:
            self._guard_absent(source, key)
        if name == "setdefault" and not dict.__contains__(owner, key):
            self._change_item(owner, key)
        elif name == "pop":
            self._delete_item(owner, key)


def _assigned_keys(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any] | None:
    """The keys that a dict's method assigns without reading any, in order; None for other methods."""
    if name == "__setitem__":
        return list(arguments[:1])
    if name not in ("update", "__ior__") or not all(isinstance(argument, dict) for argument in arguments):
        return None
    return [key for argument in (*arguments, keywords) for key in items_of(argument)]


_NODE_HOOKS = frozenset({"register_hook", "register_prehook"})
_UNBOUND = (types.MethodDescriptorType, types.WrapperDescriptorType)
_DEPTHS: dict[int, int] = {
    **{id(function): 0 for function in (isinstance, issubclass, type, id, callable)},
    **{id(function): 1 for function in (iter, next, reversed, list, tuple, dict, enumerate, zip, map, filter)},
}
"""How deeply builtins look into their arguments (see `_before_opaque`)."""
_METHOD_DEPTHS = {
    **dict.fromkeys(("append", "appendleft", "insert", "add", "setdefault", "__setitem__", "get", "pop"), 0),
    **dict.fromkeys(("extend", "extendleft", "update", "__ior__", "__iadd__", "__add__", "__or__", "__init__"), 1),
}
"""The same for the methods of containers."""
_DEEP_READERS = frozenset(
    {"index", "count", "remove", "sort", "__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__",
     "__repr__", "__str__", "__format__"}
)  # fmt: skip
_INSTANCE_READERS = frozenset({"__reduce_ex__", "__reduce__", "__getstate__", "__dir__", "__sizeof__"})
_ITERATORS = frozenset(
    {type(iter(())), type(iter([])), type(iter({})), type(iter({}.items())), type(iter({}.values())), type(iter(set())),
     map, filter, zip, enumerate, reversed, itertools.count, itertools.cycle, itertools.chain, types.GeneratorType,
     itertools.repeat, itertools.islice}
)  # fmt: skip
_ITEM_READERS = frozenset({"get", "__contains__", "__getitem__", "pop", "setdefault"})
_APPENDING = frozenset({"append", "extend", "__iadd__"})
_READERS = frozenset(
    {"keys", "values", "items", "copy", "index", "count", "__iter__", "__contains__", "__eq__", "__ne__", "get",
     "__getitem__", "union", "intersection", "difference", "issubset", "issuperset", "isdisjoint", "__reversed__",
     "symmetric_difference", "__add__", "__mul__", "__lt__", "__le__", "__gt__", "__ge__", "__or__", "__repr__"}
)  # fmt: skip
