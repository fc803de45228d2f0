"""What the interpreter tells about the user's state, turned into guards, inputs and remembered changes.

The interpreter reports every read and every write of state to one object, the `AcquisitionTracker`.  It is built up
in layers, each with one kind of state: `objects.py` (what is known, and tensors), `containers.py` (items),
`variables.py`, `attributes.py`, and here calls of code that is not interpreted, which may read whatever it is given.
"""

from __future__ import annotations

import functools
import io
import itertools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.attributes import AttributeTracker
from thunder.acquire.drawn_numbers import DrawnNumber, use
from thunder.acquire.guards import VALUE_TYPES, Prologue, is_plain, items_of
from thunder.acquire.heap import Heap, instance_dict, is_container, slot_names
from thunder.acquire.objects import CONTAINER_BASES
from thunder.acquire.sources import CALL, ITEM
from thunder.errors import ImpureCallError, UnsupportedError


class AcquisitionTracker(AttributeTracker):
    """Turns reads into guards and inputs, and remembers what is about to change."""

    def __init__(self, prologue: Prologue, heap: Heap, unstable: frozenset[str] = frozenset()) -> None:
        super().__init__(prologue, heap, unstable)
        self._generic_access = {
            "__getattribute__": self.load_generic,
            "__setattr__": self.store_generic,
            "__delattr__": self.delete_generic,
        }
        self.foreign_method: Callable[..., Any] = lambda owner, name, arguments, keywords: not_foreign
        self.has_drawn_numbers = False
        self._foreign_types: dict[type, bool] = {}
        self.made_classes: dict[int, type] = {}

    def call_opaque(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        known = self.known
        kind = type(function)
        if kind in _CACHES:
            return self._call_cached(function, arguments, keywords)
        if isinstance(function, weakref.ReferenceType):
            return self._dereference(function)
        if kind is types.MethodWrapperType:
            # `super().__setattr__(name, value)` and its like, bound to the object.
            generic: Any = self._generic_access.get(function.__name__)
            if generic is not None and not isinstance(function.__self__, (type, torch.Tensor)):
                return generic(function.__self__, *arguments)
        owner = getattr(function, "__self__", None)
        is_of_numpy_random = _is_of_numpy_random(function)
        if owner is None and arguments and (kind in _UNBOUND or is_of_numpy_random):
            owner, arguments_of_method = arguments[0], arguments[1:]
        else:
            arguments_of_method = arguments
        if (owner is not None and self._is_foreign(type(owner))) or is_of_numpy_random:
            answer = self.foreign_method(owner, function.__name__, arguments_of_method, keywords)
            if answer is not not_foreign:
                return answer
        if self.has_drawn_numbers:
            for argument in (*arguments, *keywords.values()):
                if type(argument) is DrawnNumber:
                    use(argument)
        depth = _DEPTHS.get(id(function), 2)
        if isinstance(owner, CONTAINER_BASES):
            depth = _METHOD_DEPTHS.get(function.__name__, 2)
            if (
                arguments_of_method
                and function.__name__ in _SEARCHES
                and type(arguments_of_method[0]) not in VALUE_TYPES
            ):
                arguments, arguments_of_method = self._search(function, owner, arguments, arguments_of_method)
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
        result = function(*arguments, **keywords)
        if isinstance(result, type) and len(arguments_of_method) >= 3:
            # `type(name, bases, namespace)`, or a metaclass or its `__new__` with the same.
            if isinstance(function, type) or function.__name__ == "__new__":
                self.made_classes[id(result)] = result
        return self._wrap_all(result)

    def _search(
        self, function: Any, owner: Any, arguments: tuple[Any, ...], of_method: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Guards what a container's method compares; the arguments of the call, with and without the container."""
        item = of_method[0]
        if isinstance(owner, (dict, set, frozenset)):
            item = self.key_for(owner, item)
        elif function.__name__ in ("pop", "add"):
            return arguments, of_method
        self.compare_with(owner, item)
        changed = (item, *of_method[1:])
        return (changed if len(arguments) == len(of_method) else (owner, *changed)), changed

    def _is_foreign(self, kind: type) -> bool:
        """Whether methods of such objects reach outside of the program."""
        found = self._foreign_types.get(kind)
        if found is None:
            found = self._foreign_types[kind] = issubclass(kind, io.IOBase) or kind.__module__.startswith(_NUMPY_RANDOM)
        return found

    def _dereference(self, reference: weakref.ReferenceType[Any]) -> Any:
        """A weak reference is followed: by the prologue, too, where it existed before the call."""
        target = reference()
        source = self.known.get(id(reference))
        if source is None:
            return target
        return self.read(source.child(CALL, ""), target)

    def _call_cached(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """A function under `functools.lru_cache` answers from its cache, or for real, as in plain Python.

        The prologue makes the same call: a hit, unless the cache has been emptied.  What the function itself reads
        needs no guards therefore.  With arguments that the prologue cannot name the function under the cache is called.
        """
        source = self.known.get(id(function))
        places = [self._place_of(argument) for argument in (*arguments, *keywords.values())]
        if source is None or None in places or not self.recorder.is_innermost():
            return self.interp.call(function.__wrapped__, *arguments, **keywords)
        names = [""] * len(arguments) + [f"{name}=" for name in keywords]
        texts = [f"{name}{place}" for name, place in zip(names, places)]
        try:
            with self.recorder.paused():
                value = function(*arguments, **keywords)
        except Exception as error:  # whatever the function raises: it does so every time that it is called
            what = f"{function.__qualname__}, a function under functools.lru_cache, raises {type(error).__name__}"
            raise ImpureCallError(what, self.recorder.location()) from None
        return self.read(source.child(CALL, ", ".join(texts)), value)

    def _place_of(self, argument: Any) -> str | None:
        """How the prologue names an argument, or None."""
        if isinstance(argument, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)):
            return None
        if is_plain(argument):
            return self.prologue.literal(argument)
        source = self.known.get(id(argument))
        return None if source is None else self.prologue.expression(source)

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


def _is_of_numpy_random(function: Any) -> bool:
    """Whether a function, compiled by Cython, is one of NumPy's random numbers."""
    if type(function) in _C_CALLABLES:
        return False
    module = getattr(function, "__module__", None)
    return isinstance(module, str) and module.startswith(_NUMPY_RANDOM)


def _assigned_keys(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any] | None:
    """The keys that a dict's method assigns without reading any, in order; None for other methods."""
    if name == "__setitem__":
        return list(arguments[:1])
    if name not in ("update", "__ior__") or not all(isinstance(argument, dict) for argument in arguments):
        return None
    return [key for argument in (*arguments, keywords) for key in items_of(argument)]


not_foreign = object()
"""The answer of `foreign_method` for a method that stays within the program."""
_NODE_HOOKS = frozenset({"register_hook", "register_prehook"})
_UNBOUND = (types.MethodDescriptorType, types.WrapperDescriptorType)
_C_CALLABLES = frozenset(
    {
        types.BuiltinFunctionType,
        types.FunctionType,
        types.MethodWrapperType,
        type,
        *_UNBOUND,
        types.ClassMethodDescriptorType,
    }
)
_NUMPY_RANDOM = "numpy.random"
_CACHES = frozenset({functools._lru_cache_wrapper})
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
_SEARCHES = frozenset(
    {"get", "__getitem__", "__setitem__", "__delitem__", "__contains__", "pop", "setdefault", "add", "discard",
     "remove", "index", "count"}
)  # fmt: skip
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
