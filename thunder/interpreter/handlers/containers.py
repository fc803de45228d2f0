"""Displays, comprehensions and unpacking."""

from __future__ import annotations

from typing import Any

from ..frame import NULL, Frame
from ..instructions import instruction, tracked
from ..iteration import get_iterator, list_of, native_iterable, next_value
from ..lookup import PLAIN_TYPES, type_lookup
from .calls import called_name


def take(stack: list[Any], count: int) -> list[Any]:
    """Pops the top `count` items, the deepest first."""
    if not count:
        return []
    items = stack[-count:]
    del stack[-count:]
    return items


def _read_whole(frame: Frame, obj: Any) -> Any:
    """Tells the tracker that all of a container is read; returns something native code can iterate over."""
    if frame.tracker is not None and type(obj) in frame.tracker.container_types:
        frame.tracker.touch(obj)
    return native_iterable(frame.interpreter, obj)


@instruction("BUILD_TUPLE")
def build_tuple(frame: Frame, stack: list[Any], count: int) -> None:
    if count:
        stack[-count:] = (tuple(stack[-count:]),)
    else:
        stack.append(())


@instruction("BUILD_LIST")
def build_list(frame: Frame, stack: list[Any], count: int) -> None:
    if count:
        stack[-count:] = (stack[-count:],)
    else:
        stack.append([])


@instruction("BUILD_SET")
def build_set(frame: Frame, stack: list[Any], count: int) -> None:
    result = set()
    for item in take(stack, count):
        result.add(item)
    stack.append(result)


@tracked("BUILD_SET")
def build_set_tracked(frame: Frame, stack: list[Any], count: int) -> None:
    result: set[Any] = set()
    for item in take(stack, count):
        _before_insertion(frame, result, item)
        result.add(item)
    stack.append(result)


def _before_insertion(frame: Frame, container: Any, key: Any) -> None:
    """Keys of classes with methods of their own are compared: the tracker is told of all but the most common."""
    if type(key) not in (str, int):
        frame.tracker.insert(container, key)


@instruction("BUILD_MAP")
def build_map(frame: Frame, stack: list[Any], count: int) -> None:
    items = take(stack, 2 * count)
    stack.append(dict(zip(items[::2], items[1::2])))


@tracked("BUILD_MAP")
def build_map_tracked(frame: Frame, stack: list[Any], count: int) -> None:
    items = take(stack, 2 * count)
    result: dict[Any, Any] = {}
    for key, value in zip(items[::2], items[1::2]):
        _before_insertion(frame, result, key)
        result[key] = value
    stack.append(result)


@instruction("BUILD_CONST_KEY_MAP")
def build_const_key_map(frame: Frame, stack: list[Any], count: int) -> None:
    keys = stack.pop()
    stack.append(dict(zip(keys, take(stack, count))))


@instruction("BUILD_STRING")
def build_string(frame: Frame, stack: list[Any], count: int) -> None:
    text = "".join(take(stack, count))
    stack.append(text if frame.tracker is None else frame.tracker.text(text))


@instruction("LIST_TO_TUPLE")
def list_to_tuple(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = tuple(stack[-1])


@instruction("LIST_APPEND")
def list_append(frame: Frame, stack: list[Any], depth: int) -> None:
    value = stack.pop()
    stack[-depth].append(value)


@instruction("SET_ADD")
def set_add(frame: Frame, stack: list[Any], depth: int) -> None:
    value = stack.pop()
    stack[-depth].add(value)


@tracked("SET_ADD")
def set_add_tracked(frame: Frame, stack: list[Any], depth: int) -> None:
    _before_insertion(frame, stack[-1 - depth], stack[-1])
    set_add(frame, stack, depth)


@instruction("MAP_ADD")
def map_add(frame: Frame, stack: list[Any], depth: int) -> None:
    value = stack.pop()
    key = stack.pop()
    stack[-depth][key] = value


@tracked("MAP_ADD")
def map_add_tracked(frame: Frame, stack: list[Any], depth: int) -> None:
    _before_insertion(frame, stack[-2 - depth], stack[-2])
    map_add(frame, stack, depth)


@instruction("LIST_EXTEND")
def list_extend(frame: Frame, stack: list[Any], depth: int) -> None:
    iterable = stack.pop()
    cls = type(iterable)
    if type_lookup(cls, "__iter__") is NULL and type_lookup(cls, "__getitem__") is NULL:
        raise TypeError(f"Value after * must be an iterable, not {cls.__name__}")
    stack[-depth].extend(_read_whole(frame, iterable))


@instruction("SET_UPDATE")
def set_update(frame: Frame, stack: list[Any], depth: int) -> None:
    iterable = stack.pop()
    stack[-depth].update(_read_whole(frame, iterable))


def _mapping_items(frame: Frame, mapping: Any) -> Any:
    """A mapping as native code can read it: dictionaries as they are, others through their interpreted methods."""
    if frame.tracker is not None and type(mapping) in frame.tracker.container_types:
        frame.tracker.touch(mapping)
    cls = type(mapping)
    if cls is dict or frame.interpreter.interprets_everything or type_lookup(cls, "keys") is NULL:
        return mapping
    interpreter = frame.interpreter
    if isinstance(mapping, dict) and type_lookup(cls, "__iter__") is dict.__iter__:
        return mapping
    keys = list_of(interpreter, interpreter.call(interpreter.getattr(mapping, "keys")))
    return {key: interpreter.getitem(mapping, key) for key in keys}


@instruction("DICT_UPDATE")
def dict_update(frame: Frame, stack: list[Any], depth: int) -> None:
    mapping = stack.pop()
    if type_lookup(type(mapping), "keys") is NULL and not hasattr(mapping, "keys"):
        raise TypeError(f"'{type(mapping).__name__}' object is not a mapping")
    stack[-depth].update(_mapping_items(frame, mapping))


@instruction("DICT_MERGE")
def dict_merge(frame: Frame, stack: list[Any], depth: int) -> None:
    """Adds the keyword arguments of a `**mapping` in a call; a name may come only once."""
    mapping = stack.pop()
    target = stack[-depth]
    if type_lookup(type(mapping), "keys") is NULL and not hasattr(mapping, "keys"):
        raise TypeError(
            f"{called_name(frame, _merge_callee(stack, depth))} argument after ** must be a mapping, "
            f"not {type(mapping).__name__}"
        )
    interpreter = frame.interpreter
    if frame.tracker is not None and type(mapping) in frame.tracker.container_types:
        frame.tracker.touch(mapping)
    is_dict = type(mapping) is dict
    keys = mapping if is_dict else list_of(interpreter, interpreter.call(interpreter.getattr(mapping, "keys")))
    for key in keys:
        if key in target:
            name = called_name(frame, _merge_callee(stack, depth))
            raise TypeError(f"{name} got multiple values for keyword argument '{key}'")
        target[key] = mapping[key] if is_dict else interpreter.getitem(mapping, key)


def _merge_callee(stack: list[Any], depth: int) -> Any:
    """The callable that the keyword arguments are meant for: below the tuple of positional arguments."""
    callee = stack[-depth - 2]
    return stack[-depth - 3] if callee is NULL else callee


# Unpacking.


@instruction("UNPACK_SEQUENCE")
def unpack_sequence(frame: Frame, stack: list[Any], count: int) -> None:
    sequence = stack.pop()
    kind = type(sequence)
    if frame.tracker is not None and kind in frame.tracker.container_types:
        frame.tracker.touch(sequence)
    if (kind is tuple or kind is list) and len(sequence) == count:
        stack += sequence[::-1]
        return
    values = _take_values(frame, sequence, count)
    stack += values[::-1]


@instruction("UNPACK_EX")
def unpack_ex(frame: Frame, stack: list[Any], counts: int) -> None:
    before, after = counts & 0xFF, counts >> 8
    sequence = stack.pop()
    if frame.tracker is not None and type(sequence) in frame.tracker.container_types:
        frame.tracker.touch(sequence)
    iterator = _unpacking_iterator(frame, sequence)
    first = _take_exactly(frame, iterator, before, f"at least {before + after}")
    rest = list(native_iterable(frame.interpreter, iterator))
    if len(rest) < after:
        raise ValueError(f"not enough values to unpack (expected at least {before + after}, got {before + len(rest)})")
    last = rest[len(rest) - after :]
    del rest[len(rest) - after :]
    stack += last[::-1]
    stack.append(rest)
    stack += first[::-1]


def _unpacking_iterator(frame: Frame, sequence: Any) -> Any:
    cls = type(sequence)
    if (
        cls not in PLAIN_TYPES
        and type_lookup(cls, "__iter__") in (NULL, None)
        and type_lookup(cls, "__getitem__") is NULL
    ):
        raise TypeError(f"cannot unpack non-iterable {cls.__name__} object")
    if cls in PLAIN_TYPES and not hasattr(cls, "__iter__"):
        raise TypeError(f"cannot unpack non-iterable {cls.__name__} object")
    return get_iterator(frame.interpreter, sequence)


def _take_exactly(frame: Frame, iterator: Any, count: int, expected: str) -> list[Any]:
    values: list[Any] = []
    for _ in range(count):
        value = next_value(frame.interpreter, iterator)
        if value is NULL:
            raise ValueError(f"not enough values to unpack (expected {expected}, got {len(values)})")
        values.append(value)
    return values


def _take_values(frame: Frame, sequence: Any, count: int) -> list[Any]:
    iterator = _unpacking_iterator(frame, sequence)
    values = _take_exactly(frame, iterator, count, str(count))
    if next_value(frame.interpreter, iterator) is not NULL:
        raise ValueError(f"too many values to unpack (expected {count})")
    return values
