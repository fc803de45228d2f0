"""The `match` statement."""

from __future__ import annotations

from typing import Any

from ..frame import NULL, Frame
from ..instructions import instruction
from ..lookup import is_class
from ..operators import length

TYPE_FLAG_MAPPING = 1 << 6  # Py_TPFLAGS_MAPPING
TYPE_FLAG_SEQUENCE = 1 << 5  # Py_TPFLAGS_SEQUENCE
_SELF_MATCHING = (bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple)


def _touch(frame: Frame, subject: Any) -> None:
    if frame.tracker is not None and type(subject) in frame.tracker.container_types:
        frame.tracker.touch(subject)


@instruction("GET_LEN")
def get_len(frame: Frame, stack: list[Any], _: int) -> None:
    _touch(frame, stack[-1])
    stack.append(length(frame.interpreter, stack[-1]))


@instruction("MATCH_MAPPING")
def match_mapping(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(bool(type(stack[-1]).__flags__ & TYPE_FLAG_MAPPING))


@instruction("MATCH_SEQUENCE")
def match_sequence(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(bool(type(stack[-1]).__flags__ & TYPE_FLAG_SEQUENCE))


def keys_of(frame: Frame, subject: Any, keys: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The values of `keys` in a mapping, or None if one is missing."""
    _touch(frame, subject)
    interpreter = frame.interpreter
    if not keys:
        return ()
    get = interpreter.getattr(subject, "get")
    missing = object()
    seen: set[Any] = set()
    values = []
    for key in keys:
        if key in seen:
            raise ValueError(f"mapping pattern checks duplicate key ({key!r})")
        seen.add(key)
        value = interpreter.call(get, key, missing)
        if value is missing:
            return None
        values.append(value)
    return tuple(values)


@instruction("MATCH_KEYS")
def match_keys(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(keys_of(frame, stack[-2], stack[-1]))


@instruction("MATCH_KEYS_AND_FLAG")
def match_keys_and_flag(frame: Frame, stack: list[Any], _: int) -> None:
    """3.10: whether all keys were found lies on top."""
    values = keys_of(frame, stack[-2], stack[-1])
    stack += (values, values is not None)


@instruction("COPY_DICT_WITHOUT_KEYS")
def copy_dict_without_keys(frame: Frame, stack: list[Any], _: int) -> None:
    """3.10: `**rest` in a mapping pattern; the keys lie on top."""
    rest = dict(stack[-2])
    for key in stack.pop():
        del rest[key]
    stack.append(rest)


def class_attributes(frame: Frame, subject: Any, cls: Any, count: int, names: tuple[str, ...]) -> Any:
    """The attributes that a class pattern asks for, or None if the subject does not match."""
    interpreter = frame.interpreter
    if not is_class(cls):
        raise TypeError("called match pattern must be a class")
    if not interpreter.call(isinstance, subject, cls):
        return None
    seen: set[str] = set()
    attributes: list[Any] = []
    read = interpreter.getattr if frame.tracker is None else frame.tracker.load_attr

    def take(name: Any) -> bool:
        if name in seen:
            raise TypeError(f"{cls.__name__}() got multiple sub-patterns for attribute {name!r}")
        seen.add(name)
        try:
            attributes.append(read(subject, name))
        except AttributeError:
            return False
        return True

    if count:
        positional, allowed = _positional_names(interpreter, cls)
        if allowed < count:
            plural = "" if allowed == 1 else "s"
            raise TypeError(f"{cls.__name__}() accepts {allowed} positional sub-pattern{plural} ({count} given)")
        if positional is NULL:
            attributes.append(subject)
        else:
            for name in positional[:count]:
                if not isinstance(name, str):
                    raise TypeError(f"__match_args__ elements must be strings (got {type(name).__name__})")
                if not take(name):
                    return None
    for name in names:
        if not take(name):
            return None
    return tuple(attributes)


def _positional_names(interpreter: Any, cls: type) -> tuple[Any, int]:
    """The names of a class's positional sub-patterns (NULL: the subject itself) and how many there may be."""
    try:
        names = interpreter.getattr(cls, "__match_args__")
    except AttributeError:
        if any(base in _SELF_MATCHING for base in cls.__mro__):
            return NULL, 1
        return (), 0
    if type(names) is not tuple:
        raise TypeError(f"{cls.__name__}.__match_args__ must be a tuple (got {type(names).__name__})")
    return names, len(names)


@instruction("MATCH_CLASS")
def match_class(frame: Frame, stack: list[Any], count: int) -> None:
    names = stack.pop()
    cls = stack.pop()
    stack[-1] = class_attributes(frame, stack[-1], cls, count, names)


@instruction("MATCH_CLASS_AND_FLAG")
def match_class_and_flag(frame: Frame, stack: list[Any], count: int) -> None:
    """3.10: the subject stays where there is no match, and a flag lies on top."""
    names = stack.pop()
    cls = stack.pop()
    attributes = class_attributes(frame, stack[-1], cls, count, names)
    if attributes is not None:
        stack[-1] = attributes
    stack.append(attributes is not None)
