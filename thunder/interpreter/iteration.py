"""Iteration with the semantics of CPython; `__iter__`, `__next__` and `__getitem__` in Python run interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, GeneratorType
from typing import Any

from .frame import NULL
from .lookup import PLAIN_TYPES, python_method, type_lookup

_NATIVE_ITERABLES = PLAIN_TYPES | {GeneratorType, map, filter, zip, enumerate, reversed}


def get_iterator(interp: Any, obj: Any) -> Any:
    """`iter(obj)`."""
    cls = type(obj)
    if cls in _NATIVE_ITERABLES:
        return iter(obj)
    method = type_lookup(cls, "__iter__")
    if type(method) is FunctionType:
        iterator = interp.call(method, obj)
        if type_lookup(type(iterator), "__next__") is NULL:
            raise TypeError(f"iter() returned non-iterator of type '{type(iterator).__name__}'")
        return iterator
    if method is NULL:
        get_item = python_method(cls, "__getitem__")
        if get_item is not None:
            return _by_index(interp, get_item, obj)
    return iter(obj)


def _by_index(interp: Any, get_item: FunctionType, obj: Any) -> Iterator[Any]:
    """Iterates over an object that has `__getitem__` only."""
    index = 0
    while True:
        try:
            value = interp.call(get_item, obj, index)
        except (IndexError, StopIteration):
            return  # the end of the sequence
        yield value
        index += 1


def next_value(interp: Any, iterator: Any) -> Any:
    """The iterator's next value, or NULL at its end."""
    cls = type(iterator)
    if id(cls) in interp.native_iterators:
        return next(iterator, NULL)
    method = python_method(cls, "__next__")
    if method is None:
        interp.remember_native_iterator(cls)
        return next(iterator, NULL)
    try:
        return interp.call(method, iterator)
    except StopIteration:
        return NULL


def native_iterable(interp: Any, obj: Any) -> Any:
    """Something that native code can iterate over as over `obj`, with the methods of `obj` interpreted."""
    cls = type(obj)
    if cls in _NATIVE_ITERABLES or interp.interprets_everything:
        return obj
    if (
        python_method(cls, "__iter__") is None
        and python_method(cls, "__next__") is None
        and (type_lookup(cls, "__iter__") is not NULL or python_method(cls, "__getitem__") is None)
    ):
        return obj
    return _values(interp, get_iterator(interp, obj))


def _values(interp: Any, iterator: Any) -> Iterator[Any]:
    while True:
        value = next_value(interp, iterator)
        if value is NULL:
            return
        yield value


def list_of(interp: Any, obj: Any) -> list[Any]:
    """`list(obj)`, for unpacking."""
    return list(native_iterable(interp, obj))
