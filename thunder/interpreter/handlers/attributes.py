"""Attributes and subscripts."""

from __future__ import annotations

from typing import Any

from ..attributes import delete_attribute, get_attribute, set_attribute
from ..frame import NULL, Frame
from ..instructions import Operand, instruction, tracked
from ..lookup import PLAIN_TYPES
from ..operators import delete_item, get_item, set_item


@instruction("LOAD_ATTR", Operand.NAME)
def load_attr(frame: Frame, stack: list[Any], name: str) -> None:
    obj = stack[-1]
    plain = frame.interpreter.plain_attributes.get(id(type(obj)))
    if plain is not None and name in plain:
        stack[-1] = getattr(obj, name)
    else:
        stack[-1] = get_attribute(frame.interpreter, obj, name)


@tracked("LOAD_ATTR")
def load_attr_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    stack[-1] = frame.tracker.load_attr(stack[-1], name)


@instruction("LOAD_METHOD", Operand.NAME)
def load_method(frame: Frame, stack: list[Any], name: str) -> None:
    """Replaces an object by "no self" and its attribute; CALL takes bound methods apart."""
    obj = stack[-1]
    plain = frame.interpreter.plain_attributes.get(id(type(obj)))
    if plain is not None and name in plain:
        value = getattr(obj, name)
    else:
        value = get_attribute(frame.interpreter, obj, name)
    stack[-1] = NULL
    stack.append(value)


@tracked("LOAD_METHOD")
def load_method_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    value = frame.tracker.load_attr(stack[-1], name)
    stack[-1] = NULL
    stack.append(value)


@instruction("STORE_ATTR", Operand.NAME)
def store_attr(frame: Frame, stack: list[Any], name: str) -> None:
    obj = stack.pop()
    plain = frame.interpreter.plain_stores.get(id(type(obj)))
    if plain is not None and name in plain:
        setattr(obj, name, stack.pop())
    else:
        set_attribute(frame.interpreter, obj, name, stack.pop())


@tracked("STORE_ATTR")
def store_attr_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    obj = stack.pop()
    frame.tracker.store_attr(obj, name, stack.pop())


@instruction("DELETE_ATTR", Operand.NAME)
def delete_attr(frame: Frame, stack: list[Any], name: str) -> None:
    delete_attribute(frame.interpreter, stack.pop(), name)


@tracked("DELETE_ATTR")
def delete_attr_tracked(frame: Frame, stack: list[Any], name: str) -> None:
    frame.tracker.delete_attr(stack.pop(), name)


@instruction("BINARY_SUBSCR")
def binary_subscr(frame: Frame, stack: list[Any], _: int) -> None:
    key = stack.pop()
    obj = stack[-1]
    if type(obj) in PLAIN_TYPES:
        stack[-1] = obj[key]
    else:
        stack[-1] = get_item(frame.interpreter, obj, key)


@tracked("BINARY_SUBSCR")
def binary_subscr_tracked(frame: Frame, stack: list[Any], _: int) -> None:
    key = stack.pop()
    stack[-1] = frame.tracker.load_item(stack[-1], key)


@instruction("STORE_SUBSCR")
def store_subscr(frame: Frame, stack: list[Any], _: int) -> None:
    key = stack.pop()
    obj = stack.pop()
    if type(obj) in PLAIN_TYPES:
        obj[key] = stack.pop()
    else:
        set_item(frame.interpreter, obj, key, stack.pop())


@tracked("STORE_SUBSCR")
def store_subscr_tracked(frame: Frame, stack: list[Any], _: int) -> None:
    key = stack.pop()
    obj = stack.pop()
    frame.tracker.store_item(obj, key, stack.pop())


@instruction("DELETE_SUBSCR")
def delete_subscr(frame: Frame, stack: list[Any], _: int) -> None:
    key = stack.pop()
    delete_item(frame.interpreter, stack.pop(), key)


@tracked("DELETE_SUBSCR")
def delete_subscr_tracked(frame: Frame, stack: list[Any], _: int) -> None:
    key = stack.pop()
    frame.tracker.delete_item(stack.pop(), key)


@instruction("BINARY_SLICE")
def binary_slice(frame: Frame, stack: list[Any], _: int) -> None:
    stop = stack.pop()
    start = stack.pop()
    stack[-1] = get_item(frame.interpreter, stack[-1], slice(start, stop))


@tracked("BINARY_SLICE")
def binary_slice_tracked(frame: Frame, stack: list[Any], _: int) -> None:
    stop = stack.pop()
    start = stack.pop()
    stack[-1] = frame.tracker.load_item(stack[-1], slice(start, stop))


@instruction("STORE_SLICE")
def store_slice(frame: Frame, stack: list[Any], _: int) -> None:
    stop = stack.pop()
    start = stack.pop()
    obj = stack.pop()
    set_item(frame.interpreter, obj, slice(start, stop), stack.pop())


@tracked("STORE_SLICE")
def store_slice_tracked(frame: Frame, stack: list[Any], _: int) -> None:
    stop = stack.pop()
    start = stack.pop()
    obj = stack.pop()
    frame.tracker.store_item(obj, slice(start, stop), stack.pop())


@instruction("BUILD_SLICE")
def build_slice(frame: Frame, stack: list[Any], count: int) -> None:
    step = stack.pop() if count == 3 else None
    stop = stack.pop()
    stack[-1] = slice(stack[-1], stop, step)
