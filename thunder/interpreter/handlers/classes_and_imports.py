"""`class`, `import`, annotations of modules, and what the interactive prompt prints."""

from __future__ import annotations

import builtins
import sys
from typing import Any

from ..calling import call_value
from ..frame import NULL, Frame
from ..instructions import Operand, instruction
from ..iteration import list_of


@instruction("LOAD_BUILD_CLASS")
def load_build_class(frame: Frame, stack: list[Any], _: int) -> None:
    try:
        stack.append(frame.builtins["__build_class__"])
    except KeyError:
        raise NameError("__build_class__ not found") from None


@instruction("SETUP_ANNOTATIONS")
def setup_annotations(frame: Frame, stack: list[Any], _: int) -> None:
    names = frame.names
    interpreter = frame.interpreter
    try:
        interpreter.getitem(names, "__annotations__")
    except KeyError:
        interpreter.setitem(names, "__annotations__", {})


@instruction("IMPORT_NAME", Operand.NAME)
def import_name(frame: Frame, stack: list[Any], name: str) -> None:
    names = stack.pop()
    level = stack.pop()
    try:
        function = frame.builtins["__import__"]
    except KeyError:
        raise ImportError("__import__ not found") from None
    local_names = None if frame.program.is_optimized else frame.names
    arguments = (name, frame.globals, local_names, names, level)
    stack.append(call_value(frame.interpreter, function, arguments))


@instruction("IMPORT_FROM", Operand.NAME)
def import_from(frame: Frame, stack: list[Any], name: str) -> None:
    module = stack[-1]
    interpreter = frame.interpreter
    try:
        value = frame.tracker.load_attr(module, name) if frame.tracker else interpreter.getattr(module, name)
    except AttributeError:
        value = NULL
    if value is NULL:
        value = _import_submodule(frame, module, name)
    stack.append(value)


def _import_submodule(frame: Frame, module: Any, name: str) -> Any:
    """A circular import may have put the module into `sys.modules` before its parent has the attribute."""
    module_name = getattr(module, "__name__", None)
    full_name = f"{module_name}.{name}"
    if isinstance(module_name, str) and full_name in sys.modules:
        return sys.modules[full_name]
    shown = module_name if isinstance(module_name, str) else "<unknown module name>"
    # A module without a location tells the native instruction's own message; the words differ between versions.
    code = compile(f"from m import {name}", __file__, "exec", dont_inherit=True)
    namespace = {"__builtins__": {**vars(builtins), "__import__": lambda *_: module}}
    exec(code, namespace)
    raise ImportError(f"cannot import name {name!r} from {shown!r}", name=shown)


@instruction("IMPORT_STAR")
def import_star(frame: Frame, stack: list[Any], _: int) -> None:
    module = stack.pop()
    interpreter = frame.interpreter
    skip_private = False
    try:
        names = interpreter.getattr(module, "__all__")
    except AttributeError:
        try:
            namespace = interpreter.getattr(module, "__dict__")
        except AttributeError:
            raise ImportError("from-import-* object has no __dict__ and no __all__") from None
        names = list(namespace.keys())
        skip_private = True
    where = "__dict__" if skip_private else "__all__"
    what = "Key" if skip_private else "Item"
    for name in list_of(interpreter, names):
        if not isinstance(name, str):
            raise TypeError(f"{what} in {module.__name__}.{where} must be str, not {type(name).__name__}")
        if skip_private and name.startswith("_"):
            continue
        value = interpreter.getattr(module, name)
        if frame.names is frame.globals and frame.tracker is not None:
            frame.tracker.store_global(frame.globals, name, value)
        else:
            interpreter.setitem(frame.names, name, value)


@instruction("PRINT_EXPR")
def print_expr(frame: Frame, stack: list[Any], _: int) -> None:
    call_value(frame.interpreter, sys.displayhook, (stack.pop(),))
