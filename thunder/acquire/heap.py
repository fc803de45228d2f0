"""Changes to the user's objects during acquisition: done for real, undone afterwards, and replayed by the epilogue.

While a program is acquired, its Python really changes lists, dicts and attributes, so that everything that reads
them sees what plain Python would.  Before an object that existed before the call is changed, its content is
remembered (`before_change`).  At the end `restore` puts every object back as it was -- a failed acquisition
leaves nothing behind -- and `changes` tells what the epilogue has to do at every call.

An object is followed as its underlying container: the dict of an instance, the cell of a closure.
"""

from __future__ import annotations

import collections
import copyreg
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

from thunder.errors import ImpureCallError

EMPTY_CELL = object()
"""Content of a cell that has none."""


def _dict_base(obj: dict[Any, Any]) -> Any:
    """The C class whose methods change `obj` without running user code."""
    return collections.OrderedDict if isinstance(obj, collections.OrderedDict) else dict


def content_of(obj: Any) -> Any:
    """A shallow copy of what a container holds, by the methods of its C class."""
    if isinstance(obj, dict):
        return list(_dict_base(obj).items(obj))
    if isinstance(obj, list):
        return list.copy(obj)
    if isinstance(obj, set):
        return set.copy(obj)
    if isinstance(obj, bytearray):
        return bytearray(obj)
    if isinstance(obj, collections.deque):
        return list(collections.deque.__iter__(obj))
    if isinstance(obj, CellType):
        try:
            return obj.cell_contents
        except ValueError:
            return EMPTY_CELL
    raise TypeError(f"no container: {type(obj).__qualname__}")


def set_content(obj: Any, content: Any) -> None:
    """Makes `obj` hold `content`, as `content_of` gave it."""
    if isinstance(obj, dict):
        base = _dict_base(obj)
        base.clear(obj)
        for key, value in content:
            base.__setitem__(obj, key, value)
    elif isinstance(obj, list):
        list.__setitem__(obj, slice(None), content)
    elif isinstance(obj, set):
        # No more is touched than has changed, or what is left could come in another order.
        by_identity = {id(item) for item in content}
        for item in [item for item in set.__iter__(obj) if id(item) not in by_identity]:
            set.discard(obj, item)
        set.update(obj, content)
    elif isinstance(obj, bytearray):
        obj[:] = content
    elif isinstance(obj, collections.deque):
        collections.deque.clear(obj)
        collections.deque.extend(obj, content)
    elif isinstance(obj, CellType):
        if content is EMPTY_CELL:
            del obj.cell_contents
        else:
            obj.cell_contents = content


def is_container(obj: Any) -> bool:
    """True for objects whose content `content_of` can copy."""
    return isinstance(obj, (dict, list, set, collections.deque, CellType, bytearray))


def same_content(container: Any, before: Any, after: Any) -> bool:
    """Whether two contents of a container hold the very same objects in the same order."""
    if isinstance(container, CellType):
        return before is after
    if isinstance(before, set):  # equal members need not be the same: 1 and True
        return set(map(id, before)) == set(map(id, after))
    if isinstance(before, bytearray):
        return before == after
    if isinstance(before, list):
        if not isinstance(after, list) or len(before) != len(after):
            return False
        for a, b in zip(before, after):
            if a is b:
                continue
            if type(a) is tuple and type(b) is tuple and len(a) == len(b) == 2 and a[0] is b[0] and a[1] is b[1]:
                continue
            return False
        return True
    return before is after


class Heap:
    """Remembers contents before they change.

    Attributes:
        deferred: calls for an effect outside of Python's objects, (function, arguments, keywords); they are made by
            the epilogue only.
    """

    def __init__(self) -> None:
        self._before: dict[int, tuple[Any, Any]] = {}
        self._assigned: dict[int, dict[Any, bool]] = {}
        self._deleted: dict[int, list[Any]] = {}
        self.deferred: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._slots: dict[tuple[int, str], tuple[Any, str, Callable[[], None], Any]] = {}

    def defer(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """`function(*arguments, **keywords)` is called by the epilogue, and not now."""
        self.deferred.append((function, arguments, keywords))

    def before_change(self, container: Any) -> None:
        """Called before `container`, which existed before the call, is changed."""
        if id(container) not in self._before:
            content = content_of(container)
            if isinstance(container, (dict, set)):
                _refuse_equal_keys(container)
            self._before[id(container)] = (container, content)

    def assign(self, container: Any, key: Any, *, blind: bool) -> None:
        """Called before `container[key]` is assigned.

        A blind assignment is one of which nothing is known: no guard says what was there before, so that it has to
        be replayed even when it assigned the very object that was there during acquisition.
        """
        self.before_change(container)
        assigned = self._assigned.setdefault(id(container), {})
        if isinstance(container, dict) and not dict.__contains__(container, key):
            blind = assigned.pop(key, False) or blind  # the key comes last in the dict
        assigned[key] = assigned.get(key, False) or blind

    def delete(self, container: Any, key: Any) -> None:
        """Called before a key of a dict is deleted: when it is assigned again, it comes last."""
        self.before_change(container)
        self._deleted.setdefault(id(container), []).append(key)

    def deleted(self, container: Any) -> list[Any]:
        """Keys that were deleted, and perhaps assigned again."""
        return self._deleted.get(id(container), [])

    def assigned(self, container: Any) -> dict[Any, bool]:
        """Keys that were assigned, in order, and whether blindly."""
        return self._assigned.get(id(container), {})

    def before_slot_change(self, obj: Any, name: str, undo: Callable[[], None], before: Any) -> None:
        """Called before a value outside of containers is changed (slot, class attribute)."""
        self._slots.setdefault((id(obj), name), (obj, name, undo, before))

    def was_changed(self, container: Any) -> bool:
        return id(container) in self._before

    def has_changes(self) -> bool:
        """Whether anything that existed before the call was changed."""
        return bool(self._before or self._slots)

    def was_changed_in_any_way(self, obj: Any) -> bool:
        """Whether items, attributes or slots of an object were changed."""
        attributes = instance_dict(obj)
        return (
            id(obj) in self._before
            or (attributes is not None and id(attributes) in self._before)
            or any(key[0] == id(obj) for key in self._slots)
        )

    def content_before(self, container: Any) -> Any:
        """What the container held before the call."""
        found = self._before.get(id(container))
        return content_of(container) if found is None else found[1]

    def changes(self) -> list[tuple[Any, Any, Any]]:
        """(container, content before, content now) of all that differ, in the order of their first change."""
        found = []
        for container, before in self._before.values():
            after = content_of(container)
            again = any(self.assigned(container).values()) or self.deleted(container)
            if again or not same_content(container, before, after):
                found.append((container, before, after))
        return found

    def slot_changes(self) -> list[tuple[Any, str, Any]]:
        """(object, attribute, value before) of changed slots and class attributes."""
        return [(obj, name, before) for obj, name, _, before in self._slots.values()]

    def restore(self) -> None:
        """Puts everything back as it was before the call."""
        for container, before in self._before.values():
            if not same_content(container, before, content_of(container)):
                set_content(container, before)
        for _, _, undo, _ in self._slots.values():
            undo()


def _refuse_equal_keys(container: Any) -> None:
    """A dict or set whose keys have become equal since they were put there could not be filled again."""
    keys = list((_dict_base(container) if isinstance(container, dict) else set).__iter__(container))
    if any(isinstance(type(key).__eq__, FunctionType) for key in keys) and len(set(keys)) < len(keys):
        raise ImpureCallError(f"a {type(container).__qualname__} is changed that holds keys which have become equal")


def instance_dict(obj: Any) -> dict[str, Any] | None:
    """The instance's own dict, without calling a `__dict__` property of the user's."""
    try:
        return object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return None


def slot_names(kind: type) -> list[str]:
    """Names of the slots that a class and its bases define."""
    try:
        names = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return []
    return [name for name in names or [] if name not in ("__dict__", "__weakref__")]
