"""What the interpreter tells about the user's state, turned into guards, inputs and remembered changes.

The interpreter reports every read and every write of state to one object, the `AcquisitionTracker`.  It is built up
in layers, each with one kind of state: `objects.py` (what is known, and tensors), `containers.py` (items),
`variables.py`, `attributes.py`, and here calls of code that is not interpreted, which may read whatever it is given.
"""

from __future__ import annotations

import contextvars
import functools
import io
import itertools
import operator
import re
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.attributes import AttributeTracker
from thunder.acquire.class_guards import is_mutable_class
from thunder.acquire.drawn_numbers import DrawnNumber, use
from thunder.acquire.guards import VALUE_TYPES, Prologue, is_plain, items_of
from thunder.acquire.heap import Heap, instance_dict, is_container, slot_names
from thunder.acquire.objects import ARRAYS, CONTAINER_BASES, FOLLOWED_THROUGH
from thunder.acquire.process_state import asks_for_setting, changes_setting, reaches_outside
from thunder.acquire.sources import ATTRIBUTE, CALL, ITEM, constant
from thunder.acquire.texts import TensorText, as_tensor_text, is_tensor_text, tensor_text, text_decides
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

    def call_opaque(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        known = self.known
        kind = type(function)
        if kind in _CACHES:
            return self._call_cached(function, arguments, keywords)
        if isinstance(function, weakref.ReferenceType):
            return self._dereference(function)
        if kind in _GETTERS:
            return self._get(function, *arguments)
        if kind is types.MethodWrapperType:
            # `super().__setattr__(name, value)` and its like, bound to the object.
            generic: Any = self._generic_access.get(function.__name__)
            if isinstance(function.__self__, type) and function.__name__ == "__getattribute__":
                generic = self.load_class_generic
            if generic is not None and not isinstance(function.__self__, torch.Tensor):
                return generic(function.__self__, *arguments)
        if asks_for_setting(function):
            return self._ask(function, arguments, keywords)
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
        first = owner if owner is not None else arguments[0] if arguments else None
        if function is type:
            arguments_of_method = (*arguments[:2], *map(self._read_namespace, arguments[2:]))
        elif kind is types.FunctionType and (function.__module__ == "inspect" or function is typing.get_type_hints):
            self._examine(arguments)
        if changes_setting(function) or reaches_outside(function, id(first) in known):
            self._refuse_effect(function)
        if type(owner) is contextvars.ContextVar and id(owner) in known:
            return self._context_variable(owner, function, arguments_of_method)
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
        if type(owner) in FOLLOWED_THROUGH and id(owner) in known:
            self.touch(owner)
            if type(owner) in ARRAYS and function.__name__ in _ARRAY_CHANGES:
                self.change(owner)
        elif owner is not None and id(owner) in known and is_container(owner):
            self._before_method(owner, function.__name__, arguments_of_method, keywords)
        elif owner is not None and id(owner) in known and function.__name__ in _INSTANCE_READERS:
            self._touch_instance(owner)
        elif isinstance(owner, torch.autograd.graph.Node) and function.__name__ in _NODE_HOOKS:
            raise UnsupportedError(
                f"a hook of the autograd node {owner.name()} is registered, and the program will have other nodes",
                self.recorder.location(),
                "register it on the tensor (tensor.register_hook) or on the module (register_full_backward_hook)",
            )
        if any(isinstance(argument, TensorText) for argument in (*arguments, *keywords.values())):
            self._refuse_text(function, owner)
        if isinstance(owner, re.Pattern) or (kind is types.FunctionType and _is_of_library(function)):
            # What it calls back runs interpreted.
            arguments = tuple(map(self._called_back, arguments))
            keywords = {name: self._called_back(value) for name, value in keywords.items()}
        result = function(*arguments, **keywords)
        if type(result) is str:
            return self.text(result)
        if isinstance(result, type) and len(arguments_of_method) >= 3:
            # `type(name, bases, namespace)`, or a metaclass or its `__new__` with the same.
            if isinstance(function, type) or function.__name__ == "__new__":
                self.made_classes[id(result)] = result
        return self._wrap_all(result)

    def _ask(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """The answer of a call is a setting: the prologue makes the call again."""
        answer = function(*arguments, **keywords)
        if not keywords:
            name, listed = getattr(function, "__qualname__", function.__name__), ", ".join(map(repr, arguments))
            self.prologue.call(function, list(arguments), answer, f"{name}({listed}) is unchanged")
        if type(answer) is list:
            return list(answer)
        if not is_plain(answer) and id(answer) not in self.known:
            self.make_known(answer, constant(answer))
        return answer

    def _refuse_effect(self, function: Any) -> None:
        name = getattr(function, "__qualname__", function.__name__)
        what = f"{function.__module__}.{name}() reaches outside of the program"
        raise ImpureCallError(what, self.recorder.location())

    def _read_namespace(self, namespace: Any) -> Any:
        """The dict that a class is made of is read, and not changed."""
        self.touch(namespace)
        return namespace

    def _examine(self, arguments: tuple[Any, ...]) -> None:
        """Code that is not interpreted looks at classes as a whole: `inspect`, `typing.get_type_hints`."""
        for argument in arguments:
            kind = argument if isinstance(argument, type) else type(argument)
            if isinstance(argument, type) or (is_mutable_class(kind) and not isinstance(argument, torch.Tensor)):
                self.examine_class(kind)

    def _context_variable(self, variable: Any, method: Any, arguments: tuple[Any, ...]) -> Any:
        """`variable.get()` is asked for again by the prologue."""
        places = [self._place_of(argument) for argument in arguments]
        if method.__name__ != "get" or None in places:
            raise ImpureCallError(f"the context variable {variable.name} is changed", self.recorder.location())
        try:
            value = method(*arguments)
        except LookupError:
            what = f"the context variable {variable.name} has no value"
            raise ImpureCallError(what, self.recorder.location()) from None
        place = self.known[id(variable)].child(ATTRIBUTE, "get").child(CALL, ", ".join(map(str, places)))
        return self.read(place, value)

    def _called_back(self, value: Any) -> Any:
        is_python = isinstance(value, (types.FunctionType, types.MethodType))
        return self.interp.native_callable(value) if is_python else value

    def _refuse_text(self, function: Any, owner: Any) -> None:
        """The text of a tensor is given to code that is not interpreted: it may keep it, but not look into it."""
        name = getattr(function, "__name__", "")
        if isinstance(owner, str) or function in (str, repr, format):
            keeps = name in _TEXT_JOINERS
        else:
            keeps = isinstance(owner, CONTAINER_BASES) or isinstance(function, type) or id(function) in _DEPTHS
            keeps = keeps or getattr(function, "__module__", "") == TensorText.__module__
            keeps = keeps or name in ("__init__", "__new__", "__setattr__")
        if not keeps:
            raise text_decides(self.recorder.location())

    def for_text(self, obj: Any) -> Any:
        """A size that varies is written as the number that it is, which makes it a constant of the program."""
        if isinstance(obj, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            if self.recorder.symbols is None or not self.recorder.symbols.is_known(obj):
                return tensor_text(self.recorder.location())
            if isinstance(obj, torch.SymFloat):
                return float(obj)
            return int(obj) if isinstance(obj, torch.SymInt) else bool(obj)
        if type(obj) is torch.Size and any(isinstance(size, torch.SymInt) for size in obj):
            read = [self.for_text(size) for size in obj]
            return read if any(map(is_tensor_text, read)) else torch.Size(read)
        return obj

    def text(self, text: str) -> str:
        return as_tensor_text(text, self.recorder.location()) if is_tensor_text(text) else text

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

    def _get(self, getter: Any, obj: Any) -> Any:
        """`operator.attrgetter`, `itemgetter` and `methodcaller`: the reads that they make."""
        maker: Any
        names: tuple[Any, ...]
        maker, names = getter.__reduce__()
        if type(getter) is operator.methodcaller:
            bound = maker if isinstance(maker, functools.partial) else functools.partial(maker)
            method, *arguments = (*bound.args, *names)
            return self.interp.call(self.load_attr(obj, method), *arguments, **bound.keywords)
        found = []
        for name in names:
            value = obj
            if type(getter) is operator.itemgetter:
                value = self.load_item(obj, name)
            else:
                for part in name.split("."):
                    value = self.load_attr(value, part)
            found.append(value)
        return found[0] if len(found) == 1 else tuple(found)

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
        if type(argument) in FOLLOWED_THROUGH and depth:
            self.touch(argument)
        elif depth == 2 and type(argument) in (types.FunctionType, types.MethodType):
            described = argument.__func__ if type(argument) is types.MethodType else argument
            if type(described) is types.FunctionType:
                self.enter_function(described)
                self.touch(self.load_attr(described, "__dict__"))
        elif depth == 2 and self._may_be_looked_into(argument):
            self._touch_instance(argument)
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

    def _may_be_looked_into(self, obj: Any) -> bool:
        """Whether an object from outside is an instance of a class of the user's, and no more than that."""
        kind = type(obj)
        if id(obj) not in self.known or not is_mutable_class(kind):
            return False
        if kind.__module__.startswith(("thunder.", "torch.")):
            return False
        return not isinstance(obj, (torch.nn.Module, torch.Tensor, type, *CONTAINER_BASES))

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
        if name == "pop" and isinstance(owner, set):
            what = f"an item of {self.known[id(owner)].describe()}, a set, whichever comes first, is removed"
            raise ImpureCallError(what, self.recorder.location())
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


def _is_of_library(function: types.FunctionType) -> bool:
    """Whether a function belongs to a module of the standard library that calls functions which it is given."""
    module = function.__module__
    return isinstance(module, str) and module.partition(".")[0] in ("json", "re", "bisect", "heapq")


def _assigned_keys(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any] | None:
    """The keys that a dict's method assigns without reading any, in order; None for other methods."""
    if name == "__setitem__":
        return list(arguments[:1])
    if name not in ("update", "__ior__") or not all(isinstance(argument, dict) for argument in arguments):
        return None
    return [key for argument in (*arguments, keywords) for key in items_of(argument)]


not_foreign = object()
"""The answer of `foreign_method` for a method that stays within the program."""
_TEXT_JOINERS = frozenset({"str", "repr", "format", "join", "format_map", "__add__", "__mod__", "__str__", "__repr__"})
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
_ARRAY_CHANGES = frozenset(
    {
        "fill",
        "sort",
        "put",
        "resize",
        "itemset",
        "partition",
        "setfield",
        "setflags",
        "__setitem__",
        "append",
        "extend",
        "insert",
        "pop",
        "remove",
        "reverse",
        "byteswap",
        "frombytes",
        "fromlist",
    }
)
_GETTERS = frozenset({operator.attrgetter, operator.itemgetter, operator.methodcaller})
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
