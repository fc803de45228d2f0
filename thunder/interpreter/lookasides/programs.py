"""What interpreting a whole program needs besides: interpreted imports, and what is set for a whole process."""

from __future__ import annotations

import _imp
import _signal  # type: ignore[import-not-found]
import builtins
import functools
import importlib
import sys
from collections.abc import Callable
from types import FunctionType, MethodType, TracebackType
from typing import Any

from ..frame import current_frame
from ..recursion import current_depth, set_limit
from .frames import warn

_IMPORT_FILES = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_native_import = builtins.__import__
_interpretable_import = importlib._bootstrap.__import__


def import_module(
    interp: Any, name: Any, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
) -> Any:
    """`__import__`: the import system is Python code and runs interpreted, unless the module is there already."""
    if level == 0 and isinstance(name, str):
        module = sys.modules.get(name)
        if module is not None and not _is_initializing(module):
            if not fromlist:
                return _native_import(name, globals, locals, fromlist, level)
            if "*" not in fromlist and all(isinstance(item, str) and item in vars_of(module) for item in fromlist):
                return module
    try:
        return interp.call(_interpretable_import, name, globals, locals, fromlist or (), level)
    except BaseException as error:
        error.__traceback__ = _without_import_system(error.__traceback__)
        raise error  # a bare `raise` would bring back the whole traceback, in 3.10


def vars_of(module: Any) -> Any:
    return getattr(module, "__dict__", ())


def _is_initializing(module: Any) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _without_import_system(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback less the frames of importlib, which the native import hides too."""
    entries = []
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename not in _IMPORT_FILES:
            entries.append(traceback)
        traceback = traceback.tb_next
    result: TracebackType | None = None
    for entry in reversed(entries):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def set_recursion_limit(interp: Any, limit: Any, /) -> None:
    """`sys.setrecursionlimit`, in interpreted frames."""
    if not isinstance(limit, int) or not 0 < limit < 2**31:
        sys.setrecursionlimit(limit)  # fails
        return
    depth = current_depth() + (sys.version_info < (3, 12))  # the native call of the builtin counted, up to 3.11
    if depth >= limit:
        raise RecursionError(
            f"cannot set the recursion limit to {limit} at the recursion depth {depth}: the limit is too low"
        )
    set_limit(interp, limit)


def get_recursion_limit(interp: Any) -> int:
    """`sys.getrecursionlimit`, in interpreted frames."""
    return min(interp.recursion_limit, sys.getrecursionlimit())


def set_trace(interp: Any, function: Any, /) -> None:
    """`sys.settrace`, which natively would trace the interpreter instead of the program."""
    interp.tracing.set_function(function)


def get_trace(interp: Any) -> Any:
    """`sys.gettrace`"""
    return interp.tracing.function()


def set_profile(interp: Any, function: Any, /) -> None:
    """`sys.setprofile`: remembered only; natively it would profile the interpreter."""
    interp.profile_function = function


def get_profile(interp: Any) -> Any:
    """`sys.getprofile`"""
    return interp.profile_function


def set_origin_depth(interp: Any, depth: Any) -> None:
    """`sys.set_coroutine_origin_tracking_depth`, which natively would see the interpreter's frames."""
    sys.set_coroutine_origin_tracking_depth(depth)  # checks the argument
    sys.set_coroutine_origin_tracking_depth(0)
    interp.origin_depth = depth


def get_origin_depth(interp: Any) -> int:
    """`sys.get_coroutine_origin_tracking_depth`"""
    depth: int = interp.origin_depth
    return depth


class SignalHandler:
    """A program's signal handler, called with the interpreted frame that runs instead of the interpreter's own."""

    __slots__ = ("handler", "interp")

    def __init__(self, interp: Any, handler: Any) -> None:
        self.interp = interp
        self.handler = handler

    def __call__(self, number: int, native: Any) -> Any:
        return self.interp.call(self.handler, number, current_frame(native) or native)


def _handler_of_program(handler: Any) -> Any:
    return handler.handler if type(handler) is SignalHandler else handler


def set_signal(interp: Any, number: Any, handler: Any, /) -> Any:
    """`_signal.signal`"""
    if type(handler) in (FunctionType, MethodType):
        handler = SignalHandler(interp, handler)
    return _handler_of_program(_signal.signal(number, handler))


def get_signal(interp: Any, number: Any, /) -> Any:
    """`_signal.getsignal`"""
    return _handler_of_program(_signal.getsignal(number))


_native_create_builtin = _imp.create_builtin


def create_builtin(interp: Any, spec: Any) -> Any:
    """`_imp.create_builtin`: a second `_warnings` has a `warn` of its own, which also looks for its caller."""
    module = _native_create_builtin(spec)
    native = getattr(module, "warn", None)
    if spec.name == "_warnings" and native is not None and native not in interp.lookasides:
        interp.lookasides[native] = functools.partial(warn_with, module)
    return module


def warn_with(module: Any, interp: Any, *arguments: Any, **keywords: Any) -> None:
    """`_warnings.warn` of another copy of the module."""
    warn(interp, *arguments, explicit=module.warn_explicit, **keywords)


def display_exception(interp: Any, kind: Any, error: Any, traceback: Any, /) -> None:
    """`sys.__excepthook__` since 3.13: Python code, which shall see the interpreted frames."""
    if not isinstance(error, BaseException) or sys.stderr is None:
        sys.__excepthook__(kind, error, traceback)
        return
    if error.__traceback__ is None and isinstance(traceback, TracebackType):
        error.__traceback__ = traceback
    module = import_module(interp, "traceback", fromlist=("print_exception",))
    interp.call(module._print_exception_bltin, error)


def import_lookasides() -> dict[Any, Callable[..., Any]]:
    """The table of these look-asides."""
    table: dict[Any, Callable[..., Any]] = {
        builtins.__import__: import_module,
        sys.setrecursionlimit: set_recursion_limit,
        sys.getrecursionlimit: get_recursion_limit,
        sys.settrace: set_trace,
        sys.gettrace: get_trace,
        sys.setprofile: set_profile,
        sys.getprofile: get_profile,
        sys.set_coroutine_origin_tracking_depth: set_origin_depth,
        sys.get_coroutine_origin_tracking_depth: get_origin_depth,
        _imp.create_builtin: create_builtin,
        _signal.signal: set_signal,
        _signal.getsignal: get_signal,
    }
    if sys.version_info >= (3, 13):
        table[sys.__excepthook__] = display_exception
    return table
