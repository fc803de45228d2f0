"""Builtins that look at the frame of their caller: `locals()`, `exec`, `super()`, `sys._getframe`, ..."""

from __future__ import annotations
import __future__

import builtins
import sys
import typing
import warnings
from collections.abc import Callable
from types import CellType, CodeType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

from ..calling import run_code
from ..frame import NULL, Frame, visible_frames
from ..iteration import list_of
from ..lookup import is_class, type_lookup
from ..tracebacks import stub_frame

_FUTURE_FLAGS = 0
for _feature in __future__.all_feature_names:
    _FUTURE_FLAGS |= getattr(__future__, _feature).compiler_flag


def _frame(interp: Any) -> Frame:
    """The frame of the interpreted code that called the builtin."""
    frame = interp.frame
    assert frame is not None  # look-asides are only called from interpreted frames
    return frame


def globals_of_caller(interp: Any) -> Any:
    return _frame(interp).globals


def locals_of_caller(interp: Any) -> Any:
    return _frame(interp).local_names()


def vars_of(interp: Any, *arguments: Any) -> Any:
    if arguments:
        return interp.call_natively(vars, arguments, {})
    return _frame(interp).local_names()


def dir_of(interp: Any, *arguments: Any) -> Any:
    if not arguments:
        names = _frame(interp).local_names()
        return sorted(names if type(names) is dict else list_of(interp, interp.call(interp.getattr(names, "keys"))))
    return interp.call_natively(dir, arguments, {})


def _namespaces(interp: Any, name: str, global_names: Any, local_names: Any) -> tuple[Any, Any]:
    frame = _frame(interp)
    if global_names is None:
        global_names = frame.globals
        if local_names is None:
            local_names = frame.local_names()
    elif not isinstance(global_names, dict):
        raise TypeError(f"{name}() globals must be a dict, not {type(global_names).__name__}")
    if local_names is None:
        local_names = global_names
    elif type_lookup(type(local_names), "__getitem__") is NULL:
        raise TypeError(f"locals must be a mapping or None, not {type(local_names).__name__}")
    if "__builtins__" not in global_names:
        global_names["__builtins__"] = frame.builtins
    return global_names, local_names


def _builtins_of(global_names: dict[str, Any]) -> dict[str, Any]:
    namespace = global_names["__builtins__"]
    return namespace.__dict__ if isinstance(namespace, ModuleType) else namespace


def exec_source(
    interp: Any,
    source: Any,
    globals: Any = None,
    locals: Any = None,
    /,
    *,
    closure: Any = None,
    **keywords: Any,
) -> None:
    """`exec`"""
    globals, locals = _namespace_keywords("exec", globals, locals, keywords)
    global_names, local_names = _namespaces(interp, "exec", globals, locals)
    if not isinstance(source, CodeType):
        if closure is not None:
            raise TypeError("closure can only be used when source is a code object")
        source = compile_source(interp, source, "<string>", "exec")
    elif source.co_freevars or closure is not None:
        _check_closure(source, closure)
    run_code(interp, source, global_names, _builtins_of(global_names), local_names, closure)


def _namespace_keywords(name: str, globals: Any, locals: Any, keywords: dict[str, Any]) -> tuple[Any, Any]:
    """From 3.13 on the namespaces may be passed by keyword."""
    if sys.version_info >= (3, 13):
        globals = keywords.pop("globals", globals)
        locals = keywords.pop("locals", locals)
    for keyword in keywords:
        if sys.version_info < (3, 13):
            raise TypeError(f"{name}() takes no keyword arguments")
        raise TypeError(f"{name}() got an unexpected keyword argument '{keyword}'")
    return globals, locals


def _check_closure(code: CodeType, closure: Any) -> None:
    count = len(code.co_freevars)
    if not count:
        raise TypeError("cannot use a closure with this code object")
    if closure is None and sys.version_info < (3, 11):
        raise TypeError("code object passed to exec() may not contain free variables")
    if (
        not isinstance(closure, tuple)
        or len(closure) != count
        or not all(isinstance(cell, CellType) for cell in closure)
    ):
        raise TypeError(f"code object requires a closure of exactly length {count}")


def eval_source(interp: Any, source: Any, globals: Any = None, locals: Any = None, /, **keywords: Any) -> Any:
    """`eval`"""
    globals, locals = _namespace_keywords("eval", globals, locals, keywords)
    global_names, local_names = _namespaces(interp, "eval", globals, locals)
    if isinstance(source, CodeType):
        if source.co_freevars:
            raise TypeError("code object passed to eval() may not contain free variables")
    else:
        if isinstance(source, str):
            source = source.lstrip(" \t")
        elif isinstance(source, (bytes, bytearray)):
            source = bytes(source).lstrip(b" \t")
        source = compile_source(interp, source, "<string>", "eval")
    return run_code(interp, source, global_names, _builtins_of(global_names), local_names)


def compile_source(
    interp: Any,
    source: Any,
    filename: Any,
    mode: Any,
    flags: int = 0,
    dont_inherit: Any = False,
    *more: Any,
    **keywords: Any,
) -> Any:
    """`compile`, which inherits the future statements of the calling code."""
    if not dont_inherit and isinstance(flags, int):
        flags |= _frame(interp).code.co_flags & _FUTURE_FLAGS
    if mode in ("exec", "eval") and filename == "<string>" and not isinstance(source, (str, bytes, bytearray)):
        # The native functions name themselves, not `compile`, when the source has the wrong type.
        if not hasattr(source, "_fields") and not _has_buffer(source):
            raise TypeError(f"{mode}() arg 1 must be a string, bytes or code object")
    return compile(source, filename, mode, flags, True, *more, **keywords)


def _has_buffer(source: Any) -> bool:
    try:
        memoryview(source)
    except TypeError:
        return False
    return True


def super_of(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    """`super`; without arguments it means the class and the first argument of the calling method."""
    if arguments or keywords:
        return super(*arguments, **keywords)
    frame = _frame(interp)
    code = frame.code
    if code.co_argcount == 0 and not code.co_posonlyargcount:
        raise RuntimeError("super(): no arguments")
    names = frame.program.local_names
    instance = frame.stack[0]
    if code.co_varnames[0] in code.co_cellvars:
        # Up to 3.10 the cell has a slot of its own and the argument's slot is empty.
        slot = len(names) - 1 - names[::-1].index(code.co_varnames[0])
        cell = frame.stack[slot]
        try:
            instance = cell.cell_contents if type(cell) is CellType else cell
        except ValueError:
            instance = NULL
    if instance is NULL:
        raise RuntimeError("super(): arg[0] deleted")
    if "__class__" not in code.co_freevars:
        raise RuntimeError("super(): __class__ cell not found")
    assert frame.function is not None
    closure = frame.function.__closure__
    assert closure is not None
    try:
        cls = closure[code.co_freevars.index("__class__")].cell_contents
    except ValueError:
        raise RuntimeError("super(): empty __class__ cell") from None
    if not is_class(cls):
        raise RuntimeError(f"super(): __class__ is not a type ({type(cls).__name__})")
    return super(cls, instance)


def exception_info(interp: Any) -> tuple[Any, Any, Any]:
    """`sys.exc_info` up to 3.10, where the native one answers the traceback as it was when the exception was caught."""
    kind, error, _ = sys.exc_info()
    return kind, error, None if error is None else error.__traceback__


def frame_at(interp: Any, depth: int = 0, /) -> Any:
    """`sys._getframe`"""
    depth = max(depth.__index__(), 0)
    frames = visible_frames(sys._getframe(1))
    if depth >= len(frames):
        raise ValueError("call stack is not deep enough")
    # Natively a frame that somebody has seen still tells who called it when it has ended, and so do its callers.
    for frame, outer in zip(frames[depth:], [*frames[depth + 1 :], None]):
        if type(frame) is Frame and not frame.program.suspends:
            frame.kept_back = outer
    return frames[depth]


def frame_module_name(interp: Any, depth: int = 0) -> Any:
    """`sys._getframemodulename` (3.12 and newer)"""
    frames = visible_frames(sys._getframe(1))
    return frames[depth].f_globals.get("__name__") if depth < len(frames) else None


def new_type(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    """`type(...)`: a class made by calling `type` belongs to the module of the caller."""
    if len(arguments) == 3:
        return interp.call_natively(type, _with_module(interp, arguments), keywords)
    if len(arguments) == 1 and not keywords and type(arguments[0]) is Frame:
        return FrameType
    return interp.call_natively(type, arguments, keywords)


def new_type_of_metaclass(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    """`type.__new__(metaclass, name, bases, namespace)`"""
    if len(arguments) == 4:
        arguments = (arguments[0], *_with_module(interp, arguments[1:]))
    return interp.call_natively(type.__new__, arguments, keywords)


def _with_module(interp: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    name, bases, namespace = arguments
    frame = _frame(interp)
    if isinstance(namespace, dict) and "__module__" not in namespace and "__name__" in frame.globals:
        namespace = {**namespace, "__module__": frame.globals["__name__"]}
    return name, bases, namespace


def warn(
    interp: Any,
    message: Any,
    category: Any = None,
    stacklevel: int = 1,
    source: Any = None,
    *,
    skip_file_prefixes: tuple[str, ...] = (),
    explicit: Callable[..., None] = warnings.warn_explicit,
) -> None:
    """`warnings.warn`, which names the line of the interpreted caller."""
    if isinstance(message, Warning):
        category = type(message)
    elif category is None:
        category = UserWarning
    if not (is_class(category) and issubclass(category, Warning)):
        given = category if is_class(category) else type(category)
        raise TypeError(f"category must be a Warning subclass, not '{given.__name__}'")
    if not isinstance(skip_file_prefixes, tuple):
        kind = type(skip_file_prefixes).__name__
        raise TypeError(f"warn() argument 'skip_file_prefixes' must be tuple, not {kind}")
    if not all(isinstance(prefix, str) for prefix in skip_file_prefixes):
        raise TypeError(f"Found non-str in 'skip_file_prefixes': {skip_file_prefixes!r}")
    if skip_file_prefixes and stacklevel < 2:
        stacklevel = 2
    frames = visible_frames(sys._getframe(1))
    position = _warned_frame(frames, stacklevel, skip_file_prefixes)
    if position < len(frames):
        frame = frames[position]
        names, filename, line = frame.f_globals, frame.f_code.co_filename, frame.f_lineno or 0
    elif sys.version_info >= (3, 13):
        names, filename, line = sys.__dict__, "<sys>", 0
    else:
        names, filename, line = sys.__dict__, "sys", 1
    registry = names.setdefault("__warningregistry__", {})
    module = names.get("__name__") or "<string>"
    explicit(message, category, filename, line, module, registry, None, source)


def _warned_frame(frames: list[Frame], stacklevel: int, prefixes: tuple[str, ...]) -> int:
    """The position of the frame that a warning is about."""

    def is_hidden(frame: Frame) -> bool:
        filename = frame.f_code.co_filename
        return ("importlib" in filename and "_bootstrap" in filename) or filename.startswith(prefixes)

    if stacklevel <= 0 or (frames and not prefixes and is_hidden(frames[0])):
        return max(stacklevel - 1, 0)
    position = 0
    for _ in range(stacklevel - 1):
        position += 1
        while position < len(frames) and is_hidden(frames[position]):
            position += 1
    return position


def attribute_of(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    """`getattr`"""
    if keywords:
        return getattr(*arguments, **keywords)  # fails with the builtin's own words
    if not 2 <= len(arguments) <= 3 or not isinstance(arguments[1], str):
        return getattr(*arguments)
    tracker = interp.tracker
    read = interp.getattr if tracker is None else tracker.load_attr
    if len(arguments) == 2:
        return read(arguments[0], arguments[1])
    try:
        return read(arguments[0], arguments[1])
    except AttributeError:
        return arguments[2]


def has_attribute(interp: Any, *arguments: Any, **keywords: Any) -> bool:
    """`hasattr`"""
    if keywords:
        return hasattr(*arguments, **keywords)  # fails with the builtin's own words
    if len(arguments) != 2 or not isinstance(arguments[1], str):
        return hasattr(*arguments)
    tracker = interp.tracker
    try:
        (interp.getattr if tracker is None else tracker.load_attr)(*arguments)
    except AttributeError:
        return False
    return True


def set_attribute_of(interp: Any, *arguments: Any, **keywords: Any) -> None:
    """`setattr`"""
    if keywords:
        return setattr(*arguments, **keywords)  # fails with the builtin's own words
    if len(arguments) != 3 or not isinstance(arguments[1], str):
        setattr(*arguments)
        return
    tracker = interp.tracker
    (interp.setattr if tracker is None else tracker.store_attr)(*arguments)


def delete_attribute_of(interp: Any, *arguments: Any, **keywords: Any) -> None:
    """`delattr`"""
    if keywords:
        return delattr(*arguments, **keywords)  # fails with the builtin's own words
    if len(arguments) != 2 or not isinstance(arguments[1], str):
        delattr(*arguments)
        return
    tracker = interp.tracker
    (interp.delattr if tracker is None else tracker.delete_attr)(*arguments)


def new_traceback(interp: Any, *arguments: Any, **keywords: Any) -> TracebackType:
    """`types.TracebackType(...)`: interpreted frames are represented by their stubs."""
    keywords = {name: stub_frame(value) if type(value) is Frame else value for name, value in keywords.items()}
    exchanged: list[Any] = [stub_frame(value) if type(value) is Frame else value for value in arguments]
    return TracebackType(*exchanged, **keywords)


def _call_here(target: Any, arguments: Any, keywords: Any) -> Any:
    return target(*arguments, **keywords)


def new_function(interp: Any, *arguments: Any, **keywords: Any) -> Any:
    """`types.FunctionType(code, ...)`"""
    if arguments and isinstance(arguments[0], CodeType):
        arguments = (interp.code_to_install(arguments[0]), *arguments[1:])
    elif isinstance(keywords.get("code"), CodeType):
        keywords["code"] = interp.code_to_install(keywords["code"])
    frame = interp.frame
    if frame is None or frame.builtins is builtins.__dict__:
        return interp.call_natively(FunctionType, arguments, keywords)
    return made_under(frame.builtins, FunctionType, arguments, keywords)


def made_under(builtin_names: dict[str, Any], target: Any, arguments: Any, keywords: Any) -> Any:
    """Calls `target` from a frame with these builtins, which functions without `__builtins__` inherit."""
    here = FunctionType(_call_here.__code__, {"__builtins__": builtin_names})
    return here(target, arguments, keywords)


def _with_module_of_caller(target: Any) -> Callable[..., Any]:
    """A class whose instances take their `__module__` from the function that calls it natively."""

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        here = FunctionType(_call_here.__code__, _frame(interp).globals)
        return here(target, arguments, keywords)

    return replacement


def frame_lookasides() -> dict[Any, Callable[..., Any]]:
    """The table of these look-asides."""
    table: dict[Any, Callable[..., Any]] = {
        builtins.globals: globals_of_caller,
        builtins.locals: locals_of_caller,
        builtins.vars: vars_of,
        builtins.dir: dir_of,
        builtins.exec: exec_source,
        builtins.eval: eval_source,
        builtins.compile: compile_source,
        builtins.super: super_of,
        builtins.type: new_type,
        type.__new__: new_type_of_metaclass,
        builtins.getattr: attribute_of,
        builtins.hasattr: has_attribute,
        builtins.setattr: set_attribute_of,
        builtins.delattr: delete_attribute_of,
        sys._getframe: frame_at,
        warnings.warn: warn,
        TracebackType: new_traceback,
        FunctionType: new_function,
    }
    if sys.version_info < (3, 11):
        table[sys.exc_info] = exception_info
    if sys.version_info >= (3, 12):
        table[sys._getframemodulename] = frame_module_name
        for target in (typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple, typing.TypeAliasType):
            table[target] = _with_module_of_caller(target)
    return table
