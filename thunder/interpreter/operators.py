"""Operators, subscripts, truth and membership with the semantics of CPython, special methods in Python interpreted.

Each function first asks whether a special method written in Python could take part.  If none can, the native
operator is used; it is always right.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from .conversions import lent
from .frame import NULL
from .iteration import get_iterator, next_value
from .lookup import PLAIN_TYPES, is_class, is_instance_of, python_method, type_lookup
from .operations import COMPARISONS, Operation

_CONCATENATING = (list, tuple, str, bytes, bytearray)
EQUAL = COMPARISONS["=="]


def call_method(interp: Any, method: Any, obj: Any, *arguments: Any) -> Any:
    """Calls a raw special method found in the type of `obj`; Python functions run interpreted."""
    if type(method) is FunctionType:
        return interp.call(method, obj, *arguments)
    getter = type_lookup(type(method), "__get__")
    if getter is not NULL:
        method = interp.call(getter, method, obj, type(obj))
    return interp.call(method, *arguments)


def binary(interp: Any, left: Any, right: Any, operation: Operation) -> Any:
    """A binary or in-place operator."""
    left_type, right_type = type(left), type(right)
    if left_type is str and operation.symbol in ("%", "%="):
        return left % _formatted(interp, right)
    if left_type in PLAIN_TYPES and right_type in PLAIN_TYPES:
        return operation.native(left, right)
    in_place = type_lookup(left_type, operation.in_place) if operation.in_place is not None else NULL
    method = type_lookup(left_type, operation.method)
    reflected = type_lookup(right_type, operation.reflected)
    if not (type(method) is FunctionType or type(reflected) is FunctionType or type(in_place) is FunctionType):
        return operation.native(left, right)
    if type(in_place) is FunctionType:
        result = interp.call(in_place, left, right)
        if result is not NotImplemented:
            return result
    elif in_place is not NULL:
        return operation.native(left, right)
    result = _without_in_place(interp, left, right, method, reflected, operation)
    if result is not NotImplemented:
        return result
    symbol = operation.symbol
    if symbol in ("**", "**="):
        symbol = "** or pow()" if symbol == "**" else symbol
    raise TypeError(f"unsupported operand type(s) for {symbol}: '{left_type.__name__}' and '{right_type.__name__}'")


def _formatted(interp: Any, value: Any) -> Any:
    """What stands for `value` in `text % value`: of a tuple the items are formatted, whatever its class defines."""
    if type(value) is not tuple and issubclass_of(type(value), tuple):
        return tuple([lent(interp, item) for item in tuple.__iter__(value)])
    return lent(interp, value)


def _without_in_place(interp: Any, left: Any, right: Any, method: Any, reflected: Any, operation: Operation) -> Any:
    left_type, right_type = type(left), type(right)
    right_tried = left_type is right_type or reflected is NULL
    if (
        not right_tried
        and issubclass_of(right_type, left_type)
        and type_lookup(left_type, operation.reflected) is not reflected
    ) or (not right_tried and isinstance(left, _CONCATENATING) and operation.symbol[0] in "+*"):
        result = call_method(interp, reflected, right, left)
        if result is not NotImplemented:
            return result
        right_tried = True
    if method is not NULL:
        result = call_method(interp, method, left, right)
        if result is not NotImplemented:
            return result
    if not right_tried:
        return call_method(interp, reflected, right, left)
    return NotImplemented


def issubclass_of(cls: type, base: type) -> bool:
    """Whether `base` is among the real bases of `cls`; asks no metaclass."""
    return base in cls.__mro__


def compare(interp: Any, left: Any, right: Any, operation: Operation) -> Any:
    """A rich comparison."""
    left_type, right_type = type(left), type(right)
    if left_type in PLAIN_TYPES and right_type in PLAIN_TYPES:
        return operation.native(left, right)
    method = type_lookup(left_type, operation.method)
    reflected = type_lookup(right_type, operation.reflected)
    if type(method) is not FunctionType and type(reflected) is not FunctionType:
        return operation.native(left, right)
    right_tried = False
    if left_type is not right_type and issubclass_of(right_type, left_type) and reflected is not NULL:
        right_tried = True
        result = call_method(interp, reflected, right, left)
        if result is not NotImplemented:
            return result
    if method is not NULL and method is not None:
        result = call_method(interp, method, left, right)
        if result is not NotImplemented:
            return result
    if not right_tried and reflected is not NULL and reflected is not None:
        result = call_method(interp, reflected, right, left)
        if result is not NotImplemented:
            return result
    if operation.symbol == "==":
        return left is right
    if operation.symbol == "!=":
        return left is not right
    raise TypeError(
        f"'{operation.symbol}' not supported between instances of '{left_type.__name__}' and '{right_type.__name__}'"
    )


def unary(interp: Any, operand: Any, method_name: str, native: Any) -> Any:
    """`-x`, `+x` or `~x`."""
    method = python_method(type(operand), method_name)
    return native(operand) if method is None else interp.call(method, operand)


def truth(interp: Any, obj: Any) -> bool:
    """`bool(obj)`."""
    cls = type(obj)
    if cls in PLAIN_TYPES or cls is type or cls is FunctionType:
        return bool(obj)
    method = type_lookup(cls, "__bool__")
    if type(method) is FunctionType:
        result = interp.call(method, obj)
        if result is True or result is False:
            return result
        raise TypeError(f"__bool__ should return bool, returned {type(result).__name__}")
    if method is NULL:
        method = type_lookup(cls, "__len__")
        if type(method) is FunctionType:
            return bool(length(interp, obj))
    return bool(obj)


class _Length:
    """Lends its `__len__` result to the native `len`, which checks it as CPython does."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __len__(self) -> Any:
        return self.value


def length(interp: Any, obj: Any) -> int:
    """`len(obj)`."""
    method = python_method(type(obj), "__len__")
    return len(obj) if method is None else len(_Length(interp.call(method, obj)))


def contains(interp: Any, container: Any, item: Any) -> bool:
    """`item in container`."""
    cls = type(container)
    if cls in PLAIN_TYPES:
        return item in container
    method = type_lookup(cls, "__contains__")
    if type(method) is FunctionType:
        return interp.truth(interp.call(method, container, item))
    if method is NULL and type(type_lookup(cls, "__iter__")) is FunctionType:
        iterator = get_iterator(interp, container)
        while True:
            value = next_value(interp, iterator)
            if value is NULL:
                return False
            if value is item or interp.truth(compare(interp, value, item, EQUAL)):
                return True
    return item in container


def get_item(interp: Any, obj: Any, key: Any) -> Any:
    """`obj[key]`."""
    cls = type(obj)
    if cls in PLAIN_TYPES:
        return obj[key]
    method = type_lookup(cls, "__getitem__")
    if type(method) is FunctionType:
        return interp.call(method, obj, key)
    if is_class(obj) and method is NULL:
        method = type_lookup(obj, "__class_getitem__")
        if isinstance(method, classmethod) and type(method.__func__) is FunctionType:
            return interp.call(method.__func__, obj, key)
    if is_instance_of(obj, dict) and method is _DICT_GET_ITEM and cls is not dict:
        missing = type_lookup(cls, "__missing__")
        if type(missing) is FunctionType and not dict.__contains__(obj, key):
            return interp.call(missing, obj, key)
    return obj[key]


_DICT_GET_ITEM = dict.__dict__["__getitem__"]


def set_item(interp: Any, obj: Any, key: Any, value: Any) -> None:
    """`obj[key] = value`."""
    cls = type(obj)
    if cls not in PLAIN_TYPES:
        method = python_method(cls, "__setitem__")
        if method is not None:
            interp.call(method, obj, key, value)
            return
    obj[key] = value


def delete_item(interp: Any, obj: Any, key: Any) -> None:
    """`del obj[key]`."""
    cls = type(obj)
    if cls not in PLAIN_TYPES:
        method = python_method(cls, "__delitem__")
        if method is not None:
            interp.call(method, obj, key)
            return
    del obj[key]
