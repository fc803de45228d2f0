"""What interpreting a whole program needs besides: interpreted imports, and trampolines for functions made by hand."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable
from types import CodeType, FunctionType, TracebackType
from typing import Any

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
            if "*" not in fromlist and all(
                isinstance(item, str) and item in vars_of(module) for item in fromlist
            ):
                return module
    try:
        return interp.call(_interpretable_import, name, globals, locals, fromlist or (), level)
    except BaseException as error:
        error.__traceback__ = _without_import_system(error.__traceback__)
        raise


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


def new_function(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    """`types.FunctionType(code, ...)`"""
    if arguments and isinstance(arguments[0], CodeType):
        arguments = (interp.code_to_install(arguments[0]), *arguments[1:])
    elif isinstance(keywords.get("code"), CodeType):
        keywords["code"] = interp.code_to_install(keywords["code"])
    return FunctionType(*arguments, **keywords)


# One interpreted call takes a few native ones.
NATIVE_CALLS_PER_CALL = 6


def set_recursion_limit(interp: Any, limit: Any, /) -> None:
    """`sys.setrecursionlimit`, in interpreted calls."""
    if isinstance(limit, int) and 0 < limit < 2**27:
        limit *= NATIVE_CALLS_PER_CALL
    sys.setrecursionlimit(limit)


def get_recursion_limit(interp: Any) -> int:
    """`sys.getrecursionlimit`, in interpreted calls."""
    return sys.getrecursionlimit() // NATIVE_CALLS_PER_CALL


def set_trace(interp: Any, function: Any, /) -> None:
    """`sys.settrace`: remembered only; natively it would trace the interpreter instead of the program."""
    interp.trace_function = function


def get_trace(interp: Any) -> Any:
    """`sys.gettrace`"""
    return interp.trace_function


def set_profile(interp: Any, function: Any, /) -> None:
    """`sys.setprofile`: remembered only, as `sys.settrace`."""
    interp.profile_function = function


def get_profile(interp: Any) -> Any:
    """`sys.getprofile`"""
    return interp.profile_function


def import_lookasides() -> dict[Any, Callable[..., Any]]:
    """The table of these look-asides."""
    return {
        builtins.__import__: import_module,
        FunctionType: new_function,
        sys.setrecursionlimit: set_recursion_limit,
        sys.getrecursionlimit: get_recursion_limit,
        sys.settrace: set_trace,
        sys.gettrace: get_trace,
        sys.setprofile: set_profile,
        sys.getprofile: get_profile,
    }
