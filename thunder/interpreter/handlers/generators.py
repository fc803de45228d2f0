"""Generators, coroutines and asynchronous generators: awaiting, delegating and asynchronous iteration.

The drivers in `loop` are themselves generators; the handlers of SEND and YIELD_VALUE tell them to suspend.
"""

from __future__ import annotations

from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from ..calling import call_value
from ..frame import NULL, Frame
from ..instructions import Operand, instruction
from ..iteration import get_iterator
from ..lookup import bind_special, type_lookup
from ..loop import DELEGATE, DELEGATE_AND_DROP_RECEIVER, AsyncYield
from ..program import CO_COROUTINE, CO_ITERABLE_COROUTINE
from .exceptions import reraise


@instruction("RETURN_GENERATOR")
def return_generator(frame: Frame, stack: list[Any], _: int) -> None:
    """The generator exists already: this is its first `send`, whose value the next instruction drops."""
    stack.append(None)


@instruction("SEND", Operand.JUMP)
def send(frame: Frame, stack: list[Any], target: int) -> Any:
    frame.position = target
    return DELEGATE


@instruction("SEND_AND_DROP_RECEIVER", Operand.JUMP)
def send_and_drop_receiver(frame: Frame, stack: list[Any], target: int) -> Any:
    frame.position = target
    return DELEGATE_AND_DROP_RECEIVER


@instruction("YIELD_FROM", Operand.JUMP)
def yield_from(frame: Frame, stack: list[Any], target: int) -> Any:
    """3.10: one instruction stands for the whole loop of delegation."""
    frame.position = target
    return DELEGATE_AND_DROP_RECEIVER


@instruction("ASYNC_GEN_WRAP")
def async_gen_wrap(frame: Frame, stack: list[Any], _: int) -> None:
    stack[-1] = AsyncYield(stack[-1])


@instruction("GET_YIELD_FROM_ITER")
def get_yield_from_iter(frame: Frame, stack: list[Any], _: int) -> None:
    iterable = stack[-1]
    kind = type(iterable)
    if kind is CoroutineType:
        if not frame.program.flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE):
            raise TypeError("cannot 'yield from' a coroutine object in a non-coroutine generator")
    elif kind is not GeneratorType:
        tracker = frame.tracker
        if tracker is not None and kind in tracker.container_types:
            tracker.touch(iterable)
        stack[-1] = get_iterator(frame.interpreter, iterable)


def awaitable_iterator(frame: Frame, awaitable: Any) -> Any:
    """The iterator that `await awaitable` drives, or NULL when it is not awaitable."""
    kind = type(awaitable)
    if kind is CoroutineType:
        return awaitable
    if kind is GeneratorType and awaitable.gi_code.co_flags & CO_ITERABLE_COROUTINE:
        return awaitable
    method = bind_special(frame.interpreter, awaitable, "__await__")
    if method is NULL or method is None:
        return NULL
    iterator = call_value(frame.interpreter, method, ())
    if type(iterator) is CoroutineType or (
        type(iterator) is GeneratorType and iterator.gi_code.co_flags & CO_ITERABLE_COROUTINE
    ):
        raise TypeError("__await__() returned a coroutine")
    if type_lookup(type(iterator), "__next__") is NULL:
        raise TypeError(f"__await__() returned non-iterator of type '{type(iterator).__name__}'")
    return iterator


_NOT_AWAITABLE = {
    0: "object {} can't be used in 'await' expression",
    1: "'async with' received an object from __aenter__ that does not implement __await__: {}",
    2: "'async with' received an object from __aexit__ that does not implement __await__: {}",
}


@instruction("GET_AWAITABLE")
def get_awaitable(frame: Frame, stack: list[Any], origin: int) -> None:
    awaitable = stack[-1]
    iterator = awaitable_iterator(frame, awaitable)
    if iterator is NULL:
        raise TypeError(_NOT_AWAITABLE[origin].format(type(awaitable).__name__))
    if type(iterator) is CoroutineType and iterator.cr_await is not None:
        raise RuntimeError("coroutine is being awaited already")
    stack[-1] = iterator


@instruction("GET_AITER")
def get_aiter(frame: Frame, stack: list[Any], _: int) -> None:
    obj = stack[-1]
    name = type(obj).__name__
    method = bind_special(frame.interpreter, obj, "__aiter__")
    if method is NULL or method is None:
        raise TypeError(f"'async for' requires an object with __aiter__ method, got {name}")
    iterator = call_value(frame.interpreter, method, ())
    if type_lookup(type(iterator), "__anext__") is NULL:
        raise TypeError(
            "'async for' received an object from __aiter__ that does not implement __anext__: "
            f"{type(iterator).__name__}"
        )
    stack[-1] = iterator


@instruction("GET_ANEXT")
def get_anext(frame: Frame, stack: list[Any], _: int) -> None:
    iterator = stack[-1]
    if type(iterator) is AsyncGeneratorType:
        stack.append(iterator.__anext__())
        return
    name = type(iterator).__name__
    method = bind_special(frame.interpreter, iterator, "__anext__")
    if method is NULL or method is None:
        raise TypeError(f"'async for' requires an iterator with __anext__ method, got {name}")
    result = call_value(frame.interpreter, method, ())
    try:
        awaitable = awaitable_iterator(frame, result)
    except Exception as error:  # a boundary: whatever `__await__` raises becomes the cause
        raise TypeError(f"'async for' received an invalid object from __anext__: {type(result).__name__}") from error
    if awaitable is NULL:
        # Since 3.12 the exception keeps a cause of its own; older versions word it the same.
        raise TypeError(f"'async for' received an invalid object from __anext__: {type(result).__name__}")
    stack.append(awaitable)


@instruction("END_ASYNC_FOR")
def end_async_for(frame: Frame, stack: list[Any], _: int) -> None:
    """The exception on top ends the loop if it is StopAsyncIteration."""
    exception = stack.pop()
    if isinstance(exception, StopAsyncIteration):
        stack.pop()
        return
    reraise(frame, exception)
