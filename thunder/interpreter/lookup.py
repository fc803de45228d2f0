"""Looking things up in types without running any code: the basis of every protocol the interpreter emulates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from .frame import NULL

PLAIN_TYPES = frozenset(
    {
        int,
        float,
        complex,
        bool,
        str,
        bytes,
        bytearray,
        type(None),
        list,
        tuple,
        dict,
        set,
        frozenset,
        range,
        slice,
    }
)
"""Builtin types whose own operators call no Python code, apart from that of the elements they hold."""


_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
_observers: list[Callable[[type, str], None]] = []


@contextlib.contextmanager
def observed_lookups(observe: Callable[[type, str], None]) -> Iterator[None]:
    """Within the block `observe(class, name)` is called for every look-up in a class that could be changed."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


# A metaclass may define attributes of these names; the slots of `type` cannot be fooled.
_order_of = type.__dict__["__mro__"].__get__
_namespace_of = type.__dict__["__dict__"].__get__


def type_lookup(cls: type, name: str, default: Any = NULL) -> Any:
    """The raw attribute `name` of a class or its bases (no descriptor is applied), as CPython's `_PyType_Lookup`."""
    if _observers and not cls.__flags__ & _IMMUTABLE_TYPE:
        for observe in _observers:
            observe(cls, name)
    for base in _order_of(cls) or ():  # None while a metaclass computes it
        namespace = _namespace_of(base)
        if name in namespace:
            return namespace[name]
    return default


def is_class(obj: Any) -> bool:
    """Whether `obj` is a class, without asking it (`isinstance` would read its `__class__`)."""
    cls = type(obj)
    return cls is type or type in (cls.__mro__ or ())


def is_instance_of(obj: Any, base: type) -> bool:
    """Whether `obj` is a real instance of `base`, without asking either."""
    return base in (type(obj).__mro__ or ())


def python_method(cls: type, name: str) -> FunctionType | None:
    """The special method `name` of a class if it is a Python function, else None."""
    method = type_lookup(cls, name)
    return method if type(method) is FunctionType else None


def bind_special(interp: Any, obj: Any, name: str) -> Any:
    """The special method `name` of an object, bound to it, looked up in its type only; NULL if there is none."""
    cls = type(obj)
    method = type_lookup(cls, name)
    if method is NULL:
        return NULL
    kind = type(method)
    if kind is FunctionType:
        return MethodType(method, obj)
    descriptor_get = type_lookup(kind, "__get__")
    if descriptor_get is NULL:
        return method
    if type(descriptor_get) is FunctionType:
        return interp.call(descriptor_get, method, obj, cls)
    return descriptor_get(method, obj, cls)
