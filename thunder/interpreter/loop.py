"""The drivers: native functions whose loop executes the instructions of a frame.

`run(frame)` executes a frame until it returns.  `generator_driver(frame)` does the same for code that suspends; it
is itself a generator, so that every generator and coroutine of the interpreted program is a real one whose body is
interpreted.

Exceptions.  A handler of an instruction raises natively.  The driver catches, finds the exception handler in the
frame's program, and executes it in a nested driver *inside the native `except` block*, until POP_EXCEPT.  So the
native thread state agrees with the interpreted program: `sys.exc_info()`, the implicit `__context__` of exceptions
raised by C code, and what generators save and restore need no emulation.

Invariants: every frame on the interpreted stack has at least one native frame whose code object is one of the
drivers', with a local variable `frame`; nothing else has.
"""

from __future__ import annotations

import functools
import sys
import weakref
from types import CodeType, CoroutineType, FunctionType, GeneratorType, coroutine
from typing import Any

from .frame import DRIVEN_CODE, DRIVER_CODE_IDS, LEFT_HANDLER, SWITCHED, Frame, visible_frames
from .program import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE, Program
from .unwinding import ENTER, LEAVE, PROPAGATE, raised, unwind


def run(frame: Frame) -> Any:
    """Executes a frame from its position until it returns, or until the exception handler that it is in ends."""
    stack = frame.stack
    while True:
        iterator: Any = iter(frame.instructions)
        frame.iterator = iterator
        frame.jump = iterator.__setstate__
        if frame.position:
            iterator.__setstate__(frame.position)
        try:
            for handler, operand in iterator:
                handler(frame, stack, operand)
            return frame.result
        except BaseException:  # a boundary: everything the program raises is the program's to handle
            action = unwind(frame)
            if action == PROPAGATE:
                # A bare `raise` would bring back the traceback as it was before `unwind`, in 3.10.
                raise raised()  # noqa: B904 - it is the exception that is being handled
            if action == LEAVE:
                return LEFT_HANDLER
            if action == ENTER:
                result = run(frame)
                while result is SWITCHED:
                    result = _run_switched(frame)
                if result is not LEFT_HANDLER:
                    return result


def _run_switched(frame: Frame) -> Any:
    """Goes on in an `except*` clause, with the part of the exception that it caught as the one being handled."""
    handled = frame.pending
    traceback, context = handled.__traceback__, handled.__context__
    try:
        raise handled
    except BaseException:  # a boundary: whatever the program handles
        handled.__traceback__, handled.__context__ = traceback, context
        frame.pending = None
        return run(frame)


class Suspension:
    """What the handlers of YIELD_VALUE and SEND answer: why the driver must suspend."""

    __slots__ = ()


YIELD = Suspension()
DELEGATE = Suspension()
DELEGATE_AND_DROP_RECEIVER = Suspension()
_NATIVE_DELEGATES = (GeneratorType, CoroutineType)


class Delegation:
    """Makes `yield from` use an iterator as it is, without asking it for its own iterator."""

    __slots__ = ("iterator",)

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __iter__(self) -> Any:
        return self.iterator


class NestedDriver:
    """What a driver delegates to while a nested one executes an exception handler: the nested one without `close`.

    The native `close()` and `throw(GeneratorExit)` first close what a generator delegates to.  But here both are one
    generator to the program, which may catch GeneratorExit in its handler and yield again.  So the outer driver gets
    the exception, which it must `pass_on`.
    """

    __slots__ = ("driver", "send", "thrown")

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.send = driver.send
        self.thrown: BaseException | None = None

    def __iter__(self) -> NestedDriver:
        return self

    def __next__(self) -> Any:
        if self.thrown is None:
            return self.send(None)
        thrown, self.thrown = self.thrown, None
        try:
            return self.driver.throw(thrown)
        finally:
            del thrown

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """`generator.throw`, in whose three arguments the native code calls this."""
        if value is None and traceback is None:
            return self.driver.throw(kind)
        if isinstance(kind, type) and not isinstance(value, kind):
            arguments = () if value is None else value if isinstance(value, tuple) else (value,)
            value = kind(*arguments)
        return self.driver.throw((kind if value is None else value).with_traceback(traceback))

    def pass_on(self, error: BaseException) -> None:
        """Makes `error` the next that is thrown in, unless it came out of the nested driver: then it is raised."""
        if self.driver.gi_frame is None:
            raise error
        self.thrown = error


def generator_driver(frame: Frame) -> Any:
    """Executes a frame that suspends, as `run` executes one that does not."""
    stack = frame.stack
    handled = sys.exc_info()[1] if frame.in_handler else None
    thrown: BaseException | None = None
    while True:
        if handled is not None and sys.exc_info()[1] is not handled:
            nested = NestedDriver(restored_driver(frame, handled))
            while True:
                try:
                    return (yield from nested)
                except GeneratorExit as error:
                    nested.pass_on(error)
        iterator: Any = iter(frame.instructions)
        frame.iterator = iterator
        frame.jump = iterator.__setstate__
        if frame.position:
            iterator.__setstate__(frame.position)
        try:
            while True:
                for handler, operand in iterator:
                    reason = handler(frame, stack, operand)
                    if reason is not None:
                        break
                else:
                    return frame.result
                try:
                    if reason is YIELD:
                        stack.append((yield stack.pop()))
                        continue
                    # The handler of SEND left the receiver and the value to send, None, on the stack, and where to go
                    # on in `position` (the operand here may be that of a log or of tracing).
                    result = yield from (stack[-2] if type(stack[-2]) in _NATIVE_DELEGATES else Delegation(stack[-2]))
                except BaseException as error:  # a boundary: see `_rethrow`
                    if handled is None:
                        raise
                    thrown = error
                if thrown is not None:
                    error_to_raise, thrown = thrown, None
                    try:
                        _rethrow(error_to_raise, handled)
                    finally:
                        del error_to_raise
                if reason is DELEGATE_AND_DROP_RECEIVER:
                    stack.pop()
                stack[-1] = result
                result = None
                iterator.__setstate__(frame.position)
        except BaseException:  # a boundary: everything the program raises is the program's to handle
            action = unwind(frame)
            if action == PROPAGATE:
                # A bare `raise` would bring back the traceback as it was before `unwind`, in 3.10.
                raise raised()  # noqa: B904 - it is the exception that is being handled
            if action == LEAVE:
                return LEFT_HANDLER
            if action == ENTER:
                frame.in_handler = True
                nested = NestedDriver(iterable_coroutine_driver(frame))
                while True:
                    try:
                        result = yield from nested
                        if result is not SWITCHED:
                            break
                        nested = NestedDriver(restored_driver(frame, frame.pending))
                    except GeneratorExit as error:
                        nested.pass_on(error)
                if result is not LEFT_HANDLER:
                    return result


def restored_driver(frame: Frame, handled: BaseException) -> Any:
    """Goes on with an exception handler's body after something was thrown into it.

    The native `throw` resumes the nested driver without the state of the driver around it, so the exception that is
    being handled has to be put back.
    """
    traceback, context = handled.__traceback__, handled.__context__
    try:
        raise handled
    except BaseException:  # a boundary: whatever the program handles
        handled.__traceback__, handled.__context__ = traceback, context
        frame.in_handler = True
        nested = NestedDriver(iterable_coroutine_driver(frame))
        while True:
            try:
                return (yield from nested)
            except GeneratorExit as error:
                nested.pass_on(error)


def _rethrow(error: BaseException, handled: BaseException | None) -> None:
    """Raises what came out of a `yield` in an exception handler's body.

    If it was thrown in, the native `throw` could not see the exception that is being handled, and did not make it the
    context.  Otherwise the context is as it should be, and the native `raise` must not change it.
    """
    context = error.__context__
    if context is None and error is not handled and sys.exc_info()[1] is not handled:
        context = handled
    try:
        raise error
    finally:
        error.__context__ = context
        del error


def _with_flags(function: Any, added: int, removed: int) -> Any:
    code = function.__code__
    changed = code.replace(co_flags=(code.co_flags | added) & ~removed)
    return FunctionType(changed, function.__globals__, function.__name__)


# The same code under other flags makes the other kinds of suspendable objects.
iterable_coroutine_driver = _with_flags(generator_driver, CO_ITERABLE_COROUTINE, 0)
coroutine_driver = _with_flags(generator_driver, CO_COROUTINE, CO_GENERATOR)


class AsyncYield:
    """Marks a value that an asynchronous generator yields, as opposed to what it awaits."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@coroutine
def _pass_on(item: Any) -> Any:
    """Yields to the event loop what the interpreted code awaits."""
    return (yield item)


async def async_generator_driver(frame: Frame) -> Any:
    """Makes an asynchronous generator of the generator that executes the frame."""
    inner = iterable_coroutine_driver(frame)
    resume, argument = inner.send, None
    while True:
        try:
            item = resume(argument)
        except StopIteration:
            return
        except RuntimeError as error:
            if type(error.__cause__) is StopIteration and str(error) == "generator raised StopIteration":
                error.args = ("async generator raised StopIteration",)
            raise
        try:
            argument = None
            if type(item) is AsyncYield:
                item = item.value
                argument = yield item
            else:
                argument = await _pass_on(item)
            resume = inner.send
        except BaseException as error:  # a boundary: whatever is thrown in goes to the interpreted code
            resume, argument = inner.throw, error


def _forget_driver(driver_ids: set[int], driven: dict[int, Any], key: int, _: Any) -> None:
    """The code object of a driver died. The tables are arguments because at shutdown variables are gone."""
    driver_ids.discard(key)
    driven.pop(key, None)


def driver_for(program: Program) -> Any:
    """A driver with a code object of its own, from which the program's can be told (`gi_code`)."""
    flags = program.flags
    if flags & CO_COROUTINE:
        model = coroutine_driver
    elif flags & CO_ASYNC_GENERATOR:
        model = async_generator_driver
    elif flags & CO_ITERABLE_COROUTINE:
        model = iterable_coroutine_driver
    else:
        model = generator_driver
    code = model.__code__.replace(co_name=program.code.co_name)
    if model is not async_generator_driver:
        DRIVER_CODE_IDS.add(id(code))
    forget = functools.partial(_forget_driver, DRIVER_CODE_IDS, DRIVEN_CODE, id(code))
    DRIVEN_CODE[id(code)] = weakref.ref(code, forget), weakref.ref(program.code)
    return FunctionType(code, model.__globals__)


def suspended(frame: Frame, name: str, qualified_name: str) -> Any:
    """The generator, coroutine or asynchronous generator that will execute `frame`."""
    program = frame.program
    if program.driver is None:
        program.driver = driver_for(program)
    result = program.driver(frame)
    result.__name__ = name
    result.__qualname__ = qualified_name
    frame.native_generator = weakref.ref(result)
    if frame.interpreter.origin_depth and program.flags & CO_COROUTINE:
        frame.origin = _origin(frame.interpreter.origin_depth)
    return result


def _origin(depth: int) -> tuple[tuple[str, int, str], ...]:
    """`cr_origin` of a coroutine that is made now."""
    frames = visible_frames(sys._getframe())[:depth]
    return tuple((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames)


DRIVER_CODES: tuple[CodeType, ...] = tuple(
    driver.__code__ for driver in (run, generator_driver, iterable_coroutine_driver, coroutine_driver)
)
DRIVER_CODE_IDS.update(map(id, DRIVER_CODES))
