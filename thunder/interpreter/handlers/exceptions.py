"""Raising, matching and leaving exception handlers; the `with` statement.

An exception handler runs in a nested driver inside a native `except` block (see `loop`).  So the instruction that
saves the previous exception has only a slot to fill, and POP_EXCEPT ends the nested driver.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from ..calling import call_value
from ..exception_groups import match_group, reraise_star
from ..frame import END, LEFT_HANDLER, NULL, SWITCHED, Frame
from ..instructions import Operand, instruction
from ..lookup import bind_special, is_class, is_instance_of

_GROUPS_EXIST = sys.version_info >= (3, 11)


@instruction("PUSH_EXC_INFO")
def push_exc_info(frame: Frame, stack: list[Any], _: int) -> None:
    """Puts a slot below the exception; the previous exception is kept by the native thread state."""
    stack.insert(-1, None)


@instruction("POP_EXCEPT")
def pop_except(frame: Frame, stack: list[Any], _: int) -> None:
    stack.pop()
    leave_handler(frame)


def leave_handler(frame: Frame) -> None:
    """Ends the nested driver; the driver outside continues after this instruction."""
    frame.position = frame.index() + 1
    frame.result = LEFT_HANDLER
    frame.jump(END)


def _thrower() -> Any:
    yield


def reraise(frame: Frame, exception: BaseException) -> None:
    """Raises an exception that was raised before: it keeps its context, and its traceback gets no new entry.

    `throw` into a generator that has not started raises without making, or cutting, any link between contexts.
    """
    frame.reraising = True
    try:
        if StopIteration not in type(exception).__mro__:
            _thrower().throw(exception)
        # A generator would make a RuntimeError of it.
        context = exception.__context__
        try:
            raise exception
        finally:
            exception.__context__ = context
    finally:
        del exception


@instruction("RERAISE")
def reraise_top(frame: Frame, stack: list[Any], depth: int) -> None:
    """With a depth, the position of the first raise lies there on the stack; the frame shows that line again."""
    exception = stack.pop()
    if depth:
        frame.raised_at = stack[-depth]
    reraise(frame, exception)


@instruction("CLEANUP_THROW")
def cleanup_throw(frame: Frame, stack: list[Any], _: int) -> None:
    """3.12: an exception came out of a delegate. StopIteration never does: the native `yield from` takes it."""
    reraise(frame, stack.pop())


@instruction("RAISE_VARARGS")
def raise_varargs(frame: Frame, stack: list[Any], count: int) -> None:
    if count == 0:
        current = sys.exc_info()[1]
        if current is None:
            raise RuntimeError("No active exception to reraise")
        reraise(frame, current)
    cause = stack.pop() if count == 2 else NULL
    exception = _exception_of(frame, stack.pop())
    if cause is not NULL:
        exception.__cause__ = _cause_of(frame, cause)
    try:
        raise exception
    finally:
        del exception, cause


def _exception_of(frame: Frame, value: Any) -> BaseException:
    """The exception that `raise value` raises."""
    if is_class(value) and issubclass_of_exception(value):
        instance = call_value(frame.interpreter, value, ())
        if not is_instance_of(instance, BaseException):
            raise TypeError(
                f"calling {value!r} should have returned an instance of BaseException, not {type(instance)!r}"
            )
        return instance
    if BaseException in type(value).__mro__:
        return value
    raise TypeError("exceptions must derive from BaseException")


def _cause_of(frame: Frame, cause: Any) -> BaseException | None:
    if is_class(cause) and issubclass_of_exception(cause):
        instance = call_value(frame.interpreter, cause, ())
        if not is_instance_of(instance, BaseException):
            raise TypeError(
                f"calling {cause!r} should have returned an instance of BaseException, not {type(instance)!r}"
            )
        return instance
    if cause is None or is_instance_of(cause, BaseException):
        return cause
    raise TypeError("exception causes must derive from BaseException")


def issubclass_of_exception(cls: type) -> bool:
    return BaseException in cls.__mro__


def matches(exception: BaseException, wanted: Any) -> bool:
    """Whether `except wanted` catches an exception; asks no metaclass."""
    if type(wanted) is tuple:
        order = type(exception).__mro__
        return any(candidate in order for candidate in wanted)
    return wanted in type(exception).__mro__


def _check_catchable(wanted: Any) -> None:
    for candidate in wanted if isinstance(wanted, tuple) else (wanted,):
        if not (is_class(candidate) and issubclass_of_exception(candidate)):
            raise TypeError("catching classes that do not inherit from BaseException is not allowed")


def _check_star_candidates(wanted: Any) -> None:
    for candidate in wanted if isinstance(wanted, tuple) else (wanted,):
        if not (is_class(candidate) and issubclass_of_exception(candidate)):
            raise TypeError("catching classes that do not inherit from BaseException is not allowed")
        if BaseExceptionGroup in candidate.__mro__:  # noqa: F821 - 3.11 and newer only
            raise TypeError("catching ExceptionGroup with except* is not allowed. Use except instead.")


@instruction("CHECK_EXC_MATCH")
def check_exc_match(frame: Frame, stack: list[Any], _: int) -> None:
    wanted = stack.pop()
    _check_catchable(wanted)
    stack.append(matches(stack[-1], wanted))


@instruction("JUMP_IF_NOT_EXC_MATCH", Operand.JUMP)
def jump_if_not_exc_match(frame: Frame, stack: list[Any], target: int) -> None:
    """3.10: the type of the exception lies below the type to match."""
    wanted = stack.pop()
    raised = stack.pop()
    _check_catchable(wanted)
    order = raised.__mro__
    caught = any(candidate in order for candidate in (wanted if isinstance(wanted, tuple) else (wanted,)))
    if not caught:
        frame.jump(target)


@instruction("CHECK_EG_MATCH")
def check_eg_match(frame: Frame, stack: list[Any], _: int) -> None:
    """`except* wanted`: pushes what is left and what matches."""
    wanted = stack.pop()
    _check_star_candidates(wanted)
    rest, match = match_group(frame.interpreter, stack[-1], wanted, matches)
    stack[-1] = rest
    stack.append(match)
    if match is not None:
        # From here on `match` is the exception that is being handled.
        frame.position = frame.index() + 1
        frame.pending = match
        frame.result = SWITCHED
        frame.jump(END)


@instruction("PREP_RERAISE_STAR")
def prep_reraise_star(frame: Frame, stack: list[Any], _: int) -> None:
    raised = stack.pop()
    stack[-1] = reraise_star(stack[-1], raised)


# The `with` statement.


def _bound_exit(frame: Frame, manager: Any, enter_name: str, exit_name: str, protocol: str) -> tuple[Any, Any]:
    enter = bind_special(frame.interpreter, manager, enter_name)
    cls = type(manager)
    if enter is NULL:
        if not _GROUPS_EXIST:
            raise AttributeError(enter_name)
        raise TypeError(f"'{cls.__name__}' object does not support the {protocol} protocol")
    leave = bind_special(frame.interpreter, manager, exit_name)
    if leave is NULL:
        if not _GROUPS_EXIST:
            raise AttributeError(exit_name)
        raise TypeError(f"'{cls.__name__}' object does not support the {protocol} protocol (missed {exit_name} method)")
    return enter, leave


def enter_with(frame: Frame, stack: list[Any]) -> Any:
    """Replaces the context manager by its bound `__exit__`; returns the result of `__enter__`."""
    enter, leave = _bound_exit(frame, stack[-1], "__enter__", "__exit__", "context manager")
    stack[-1] = leave
    return call_value(frame.interpreter, enter, ())


def enter_async_with(frame: Frame, stack: list[Any]) -> Any:
    """As `enter_with`, for `async with`."""
    enter, leave = _bound_exit(frame, stack[-1], "__aenter__", "__aexit__", "asynchronous context manager")
    stack[-1] = leave
    return call_value(frame.interpreter, enter, ())


@instruction("BEFORE_WITH")
def before_with(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(enter_with(frame, stack))


@instruction("BEFORE_ASYNC_WITH")
def before_async_with(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(enter_async_with(frame, stack))


@instruction("WITH_EXCEPT_START")
def with_except_start(frame: Frame, stack: list[Any], _: int) -> None:
    """Calls `__exit__(type, exception, traceback)`; it lies below the position, the previous and the exception."""
    exception: BaseException = stack[-1]
    traceback: TracebackType | None = exception.__traceback__
    stack.append(call_value(frame.interpreter, stack[-4], (type(exception), exception, traceback)))


@instruction("LOAD_ASSERTION_ERROR")
def load_assertion_error(frame: Frame, stack: list[Any], _: int) -> None:
    stack.append(AssertionError)
