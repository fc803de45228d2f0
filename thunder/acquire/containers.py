"""Items of containers: what is read of lists, dicts, sets and their like, and what is about to change.

An item that is read by its index or key is guarded alone; a container that is walked through, compared or shown is
`touch`ed: all of its content is guarded.  A container that has changed since the call began is touched as it was then.
"""

from __future__ import annotations

import collections
import enum
import gc
import types
from typing import Any

import torch

from thunder.acquire.guards import VALUE_TYPES, Prologue, is_plain, items_of, type_lookup
from thunder.acquire.heap import Heap, is_container
from thunder.acquire.objects import ARRAYS, CONTAINER_BASES, CONTAINERS, DICT_VIEWS, FOLLOWED_THROUGH, ObjectTracker
from thunder.acquire.sources import ITEM, KEY, Source, constant
from thunder.errors import ImpureCallError

_DICT_GETITEM = frozenset({dict.__getitem__, collections.OrderedDict.__getitem__, collections.defaultdict.__getitem__})
_LARGEST_ARRAY = 1 << 16  # bytes


def same_array(array: Any, form: tuple[Any, ...], content: bytes) -> bool:
    """Whether an array holds these bytes in this form."""
    return bool(_form(array) == form and array.tobytes() == content)


def _is_too_much(array: Any) -> bool:
    """Whether the numbers of an array are too many for a guard, or no numbers at all."""
    if not hasattr(array, "dtype"):
        return len(array) * array.itemsize > _LARGEST_ARRAY
    return bool(array.nbytes > _LARGEST_ARRAY or array.dtype.hasobject)


def _form(array: Any) -> tuple[Any, ...]:
    if isinstance(array, memoryview):
        return array.format, array.shape
    return (array.dtype, array.shape) if hasattr(array, "dtype") else (array.typecode, len(array))


class ContainerTracker(ObjectTracker):
    """Reads and changes of items."""

    def __init__(self, prologue: Prologue, heap: Heap, unstable: frozenset[str] = frozenset()) -> None:
        super().__init__(prologue, heap, unstable)
        self._touched: set[int] = set()

    def load_item_or_none(self, obj: dict[Any, Any], key: Any) -> Any:
        """`obj.get(key)` of a dict that existed before the call."""
        source = self.source_of(obj)
        if key in obj:
            return self.read(source.child(ITEM, key), obj[key])
        self._guard_absent(source, key)
        return None

    def as_number(self, obj: Any, names: tuple[str, ...] = ("__index__",)) -> Any:
        """What `__index__`, `__float__` or their like in Python make of an object that C code asks for a number."""
        if type(obj) in VALUE_TYPES or isinstance(obj, torch.Tensor):
            return obj
        if isinstance(obj, (torch.SymInt, torch.SymFloat)) and "__index__" not in names[:1]:
            return obj  # int, float and their like know symbols; what counts or finds with a number needs to know it
        for name in names:
            method = self._python_method(type(obj), name)
            if method is not None:
                return self.interp.call(method, obj)
        return obj

    def load_item(self, obj: Any, key: Any) -> Any:
        if isinstance(obj, torch.Tensor) and isinstance(key, torch.SymInt):
            pass  # which element it is may vary
        elif isinstance(obj, (list, tuple, str, torch.Tensor)) and type(key) not in VALUE_TYPES:
            key = self.as_number(key)
        if isinstance(obj, dict) and type(key) not in VALUE_TYPES:
            key = self.key_for(obj, key)
            self.compare_with(obj, key)
        source = self.known.get(id(obj))
        if source is None:
            value = self.interp.getitem(obj, key)
            return self.wrap(value) if isinstance(value, torch.Tensor) else value
        kind = type(obj)
        if kind not in CONTAINERS:
            self.classes.lookup(kind, "__getitem__")
            if isinstance(type_lookup(kind, "__getitem__"), types.FunctionType):
                return self._wrap_all(self.interp.getitem(obj, key))
        if isinstance(obj, (list, tuple)):
            if type(key) is int and not self.heap.was_changed(obj):
                index = key
                if -len(obj) <= index < 0:
                    # Counted from the end: which one it is depends on the length.
                    self._guard_length(source, obj)
                    index += len(obj)
                if 0 <= index < len(obj):
                    return self.read(source.child(ITEM, index), obj[index])
            self.touch(obj)
            return self._wrap_all(obj[key])
        if isinstance(obj, dict) and type(obj).__getitem__ in _DICT_GETITEM and is_plain(key):
            if key in obj:
                return self.read(source.child(ITEM, key), obj[key])
            self._guard_absent(source, key)
            if isinstance(obj, collections.defaultdict):
                return self._make_missing(obj, key)
        elif kind in self.container_types:
            self.touch(obj)
            if isinstance(obj, collections.defaultdict) and key not in obj:
                return self._make_missing(obj, key)
        return self._wrap_all(self.interp.getitem(obj, key))

    def _make_missing(self, obj: collections.defaultdict[Any, Any], key: Any) -> Any:
        """`defaultdict.__missing__`."""
        missing = type_lookup(type(obj), "__missing__")
        if isinstance(missing, types.FunctionType):
            return self.interp.call(missing, obj, key)
        factory = self.load_attr(obj, "default_factory")
        if factory is None:
            raise KeyError(key)
        value = self.interp.call(factory)
        self.store_item(obj, key, value)
        return value

    def _wrap_all(self, value: Any) -> Any:
        """Exchanges tensors for shadows in a value, or a list or tuple of values, that a read has just made."""
        if isinstance(value, torch.Tensor):
            return self.wrap(value)
        if id(value) in self.known:
            return value
        if type(value) in (list, tuple) and any(isinstance(item, torch.Tensor) for item in value):
            items = [self.wrap(item) if isinstance(item, torch.Tensor) else item for item in value]
            if any(item is not before for item, before in zip(items, value)):
                return type(value)(items)
        return value

    def store_item(self, obj: Any, key: Any, value: Any) -> None:
        if isinstance(obj, dict) and type(key) not in VALUE_TYPES:
            key = self.key_for(obj, key)
            self.compare_with(obj, key)
        if id(obj) in self.known and is_container(obj):
            self._change_item(obj, key)
        elif type(obj) in ARRAYS:
            self.change(obj)
        self.interp.setitem(obj, key, value)

    def delete_item(self, obj: Any, key: Any) -> None:
        if isinstance(obj, dict) and type(key) not in VALUE_TYPES:
            key = self.key_for(obj, key)
            self.compare_with(obj, key)
        if id(obj) in self.known and is_container(obj):
            self.load_item(obj, key)
            self._delete_item(obj, key)
        self.interp.delitem(obj, key)

    def _change_item(self, obj: Any, key: Any) -> None:
        source = self.source_of(obj)
        self.heap.before_change(obj)
        if not isinstance(obj, dict):
            self.touch(obj)
        elif is_plain(key):
            place = source.child(ITEM, key)
            self.heap.assign(obj, key, blind=not place.seen)
            place.written = True
        else:
            self.heap.assign(obj, key, blind=id(obj) not in self._touched)

    def _delete_item(self, obj: Any, key: Any) -> None:
        """Before an item is deleted that has been read."""
        if not isinstance(obj, dict):
            self.heap.before_change(obj)
            self.touch(obj)
            return
        if is_plain(key):
            self.source_of(obj).child(ITEM, key).written = True
        if dict.__contains__(obj, key):
            self.heap.delete(obj, key)

    def _guard_length(self, source: Source, obj: Any) -> None:
        place = source.child(KEY, "len")
        if not place.seen and id(obj) not in self._touched:
            place.seen = True
            self.prologue.length(source, len(obj))

    def length(self, obj: Any) -> None:
        """`len(obj)` or its truth value is read."""
        source = self.known.get(id(obj))
        if source is None or type(obj) not in self.container_types:
            return
        if self.heap.was_changed(obj):
            self.touch(obj)
        else:
            self._guard_length(source, obj)

    def touch(self, obj: Any) -> None:
        """The whole content of a container is read."""
        source = self.known.get(id(obj))
        if source is None or id(obj) in self._touched:
            return
        self._touched.add(id(obj))
        if type(obj) in FOLLOWED_THROUGH:
            self._touch_through(source, obj)
            return
        if isinstance(obj, dict):
            self._touch_dict(source, obj)
        elif isinstance(obj, (set, frozenset)):
            # A copy of a set may have another order.
            content = self.heap.content_before(obj) if self.heap.was_changed(obj) else items_of(obj)
            self.prologue.plain_items(source, list(content))
            for item in content:
                if not is_plain(item) and id(item) not in self.known and not isinstance(item, torch.Tensor):
                    self.make_known(item, constant(item))
        elif isinstance(obj, (list, tuple, collections.deque, bytearray)):
            content = items_of(obj) if isinstance(obj, tuple) else self.heap.content_before(obj)
            if all(is_plain(item) for item in content):
                self.prologue.plain_items(source, content)
                return
            self.prologue.length(source, len(content))
            for index, item in enumerate(content):
                self.read(source.child(ITEM, index), item)

    def _touch_through(self, source: Source, obj: Any) -> None:
        """What a view of a dict, a mapping proxy or an array shows is read."""
        if type(obj) in ARRAYS:
            if _is_too_much(obj):
                raise ImpureCallError(f"{source.describe()}, a large array, is read", self.recorder.location())
            bind, array = self.prologue.bind, self.prologue.expression(source)
            condition = f"{bind(same_array)}({array}, {bind(_form(obj))}, {bind(obj.tobytes())})"
            self.prologue.check(condition, lambda: f"{source.describe()} holds the same numbers")
        elif type(obj) in DICT_VIEWS:
            shown = gc.get_referents(obj)[0]
            self.source_of(shown)
            self.touch(shown)
        else:
            keys = list(obj)
            self.prologue.plain_items(source, keys)
            for key in filter(is_plain, keys):
                self.read(source.child(ITEM, key), obj[key])

    def touch_deeply(self, obj: Any) -> None:
        """The whole content of a container is read, and that of the containers in it."""
        pending, met = [obj], set()
        while pending:
            container = pending.pop()
            if type(container) in FOLLOWED_THROUGH:
                self.touch(container)
            if id(container) in met or not isinstance(container, CONTAINER_BASES):
                continue
            met.add(id(container))
            self.touch(container)
            pending += items_of(container)
            if isinstance(container, dict):
                pending += dict.values(container)

    # Searches ---------------------------------------------------------------------------------------------------
    def search(self, container: Any, item: Any) -> Any:
        self.touch_deeply(container)
        if isinstance(container, (dict, set, frozenset)):
            item = self.key_for(container, item)
        if isinstance(container, (dict, list, tuple, set, frozenset, collections.deque)):
            self.compare_with(container, item)
        return item

    def insert(self, container: Any, key: Any) -> None:
        self.compare_with(container, key)

    def key_for(self, container: Any, key: Any) -> Any:
        """A tensor is found in a dict or set that existed before the call as itself, not as its shadow."""
        if isinstance(key, torch.Tensor) and id(container) in self.known:
            found = self.input_of(key)
            if found is not None:
                return found[1]
        return key

    def compare_with(self, container: Any, item: Any) -> None:
        """C code looks for `item`, and calls `__hash__` and `__eq__` natively where classes have their own.

        The same methods are interpreted here first, in the same order, so that what they read is guarded.
        """
        by_hash = isinstance(container, (dict, set, frozenset))
        if type(item) in VALUE_TYPES and (by_hash or VALUE_TYPES.issuperset(map(type, items_of(container)))):
            return
        for element in items_of(container):
            if element is item:
                return
            if is_plain(element) and is_plain(item):
                continue
            if not (self._holds_identity(element) and self._holds_identity(item)):
                self.touch(container)
            if by_hash and self._hash(element) != self._hash(item):
                self.identity(element, item)
            elif self._equal(element, item):
                return

    def seen(self, container: Any, within: tuple[int, ...] = ()) -> Any:
        """A container with the tensors that the program sees, in the place of one from outside that holds real ones."""
        kind = type(container)
        if isinstance(container, torch.Tensor):
            return self.wrap(container)
        if kind not in (list, tuple, dict) or id(container) in within:
            return container
        within = (*within, id(container))
        items = list(container.values()) if kind is dict else list(container)
        found = [self.seen(item, within) for item in items]
        if all(new is old for new, old in zip(found, items)):
            return container
        return dict(zip(container, found)) if kind is dict else kind(found)

    def compare(self, left: Any, right: Any) -> None:
        if isinstance(left, CONTAINER_BASES) and isinstance(right, CONTAINER_BASES):
            self._equal(left, right)
        elif not isinstance(left, torch.Tensor) and not isinstance(right, torch.Tensor):
            self.identity(left, right)

    def _equal(self, left: Any, right: Any) -> bool:
        """What `==` of C code finds, with methods in Python interpreted and with guards on who is who."""
        if left is right:
            return True
        if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
            return False
        for own, other in ((left, right), (right, left)):
            method = self._python_method(type(own), "__eq__")
            if method is not None:
                answer = self.interp.call(method, own, other)
                if answer is not NotImplemented:
                    return bool(self.interp.truth(answer))
        if isinstance(left, CONTAINER_BASES) and isinstance(right, CONTAINER_BASES):
            first, second = _compared_items(left), _compared_items(right)
            return len(first) == len(second) and all(map(self._equal, first, second))
        if type(left) in VALUE_TYPES or type(right) in VALUE_TYPES:
            return bool(left == right)
        return self.identity(left, right)

    def _hash(self, obj: Any) -> int:
        method = self._python_method(type(obj), "__hash__")
        if method is not None:
            return int(self.interp.call(method, obj))
        if isinstance(obj, tuple):
            for part in obj:
                self._hash(part)
        return hash(obj)

    def _holds_identity(self, obj: Any) -> bool:
        """Whether an object is equal to itself alone."""
        return not isinstance(obj, tuple) and self._python_method(type(obj), "__eq__") is None

    def _python_method(self, kind: type, name: str) -> types.FunctionType | None:
        """A method of a class of the user's that C code would call natively."""
        if kind in VALUE_TYPES or issubclass(kind, (torch.Tensor, enum.Enum)):
            return None
        self.classes.lookup(kind, name)
        found = type_lookup(kind, name)
        return found if isinstance(found, types.FunctionType) else None

    def change(self, obj: Any) -> None:
        """An in-place operator is about to change a container."""
        if id(obj) in self.known and is_container(obj):
            self.heap.before_change(obj)
        elif type(obj) in ARRAYS and id(obj) in self.known:
            raise ImpureCallError(f"{self.known[id(obj)].describe()}, an array, is changed", self.recorder.location())

    def _touch_dict(self, source: Source, obj: dict[Any, Any]) -> None:
        content = self.heap.content_before(obj)
        keys = [key for key, _ in content]
        if all(is_plain(key) for key in keys):
            self.prologue.plain_items(source, keys)
            for key, value in content:
                place = source.child(ITEM, key)
                if place.written:
                    # It was changed before it was read: the guard is on the value that it had.
                    place = Source(ITEM, source, key)
                self.read(place, value)
            return
        self.prologue.length(source, len(content))
        for index, (key, value) in enumerate(content):
            self.read(source.child(KEY, index), key)
            if not is_plain(value):
                self.prologue.check(
                    f"{self.prologue.expression(source)}[{self.prologue.bind(key)}] is {self.prologue.bind(value)}",
                    f"item {index} of {source.describe()} is unchanged",
                )
                if not isinstance(value, torch.Tensor):
                    self.source_of(value)
                else:
                    self.shadow_of(value)
            else:
                self.read(Source(ITEM, source, key), value)

    def identity(self, left: Any, right: Any) -> bool:
        result = left is right
        if left is None or right is None:
            return result
        if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
            left, right = self.wrap(left), self.wrap(right)
            result = left is right
        first, second = self._source_for_identity(left), self._source_for_identity(right)
        if first is not None and second is not None and not result and not (first.stable and second.stable):
            self.prologue.check(
                f"{self.prologue.expression(first)} is not {self.prologue.expression(second)}",
                f"{first.describe()} is not {second.describe()}",
            )
        return result

    def _source_for_identity(self, obj: Any) -> Source | None:
        found = self._input_of_shadow.get(id(obj))
        return found[0] if found is not None else self.known.get(id(obj))

    def truth(self, obj: Any) -> bool:
        if type(obj) in ARRAYS:
            self.touch(obj)
            return bool(obj)
        if type(obj) in CONTAINERS:
            self.length(obj)
            return bool(obj)
        if type(obj) in self.container_types:
            for name in ("__bool__", "__len__"):
                self.classes.lookup(type(obj), name)
                if isinstance(type_lookup(type(obj), name), types.FunctionType):
                    return self.interp.truth(obj)
            self.length(obj)
            return bool(obj)
        if isinstance(obj, torch.Tensor):
            return bool(obj)
        return self.interp.truth(obj)


def _compared_items(container: Any) -> list[Any]:
    """What `==` of a container compares with the items of another, in order."""
    if isinstance(container, dict):
        return [part for item in dict.items(container) for part in item]
    return items_of(container)
