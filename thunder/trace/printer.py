"""Traces as Python source: for reading (`print_trace`) and for running (`compile_trace`).

Both write the same statements.  The readable form spells targets with their public path
(`torch.nn.functional.linear`), has types and the user's lines in comments, and defines the regions it calls as
functions above.  The executed form binds every target to one short global name, which saves the attribute
look-ups, and calls the regions' compiled implementations.
"""

from __future__ import annotations

import enum
import importlib
import itertools
import linecache
import math
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import resolve_name

from thunder.trace.op import Op, Region, delete
from thunder.trace.var import Var

if TYPE_CHECKING:
    from thunder.trace.trace import Trace

_LITERALS = (int, str, bytes, bool, type(None), type(Ellipsis))
_TORCH_LITERALS = (torch.dtype, torch.layout, torch.memory_format)
_path_cache: dict[int, tuple[Any, str | None]] = {}
_file_numbers = itertools.count()


def public_path(obj: Any) -> str | None:
    """The dotted path under which `obj` can be imported (`torch.nn.functional.linear`), or None."""
    cached = _path_cache.get(id(obj))
    if cached is not None and cached[0] is obj:
        return cached[1]
    path = _find_path(obj)
    _path_cache[id(obj)] = (obj, path)
    return path


_HOMES = ("torch._C._nn", "torch._C", "torch._VF", "torch._C._functorch")
"""Where C functions that do not tell their module live."""


def _find_path(obj: Any) -> str | None:
    if isinstance(obj, torch._ops.OpOverload):
        return f"torch.ops.{obj.namespace}.{obj._opname}.{obj._overloadname}"
    if isinstance(obj, torch._ops.OpOverloadPacket):
        return "torch.ops." + obj._qualified_op_name.replace("::", ".")
    candidates: list[str] = []
    if type(obj).__name__ == "method-wrapper" and getattr(obj, "__name__", "") in (
        "__get__",
        "__set__",
        "__delete__",
    ):
        owner = _find_path(obj.__self__)  # a property of torch.Tensor: torch.Tensor.real.__get__
        return f"{owner}.{obj.__name__}" if owner else None
    if callable(obj) or type(obj).__name__ == "getset_descriptor":
        try:
            resolved = resolve_name(obj)
        except (TypeError, AttributeError, RuntimeError):
            resolved = None
        name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
        module = getattr(obj, "__module__", None)
        short = getattr(obj, "__name__", None)
        if isinstance(short, str):
            # The documented home comes first: torch.relu, not torch._C._VariableFunctions.relu.
            candidates += [f"torch.Tensor.{short}", f"torch.nn.functional.{short}", f"torch.{short}"]
        if resolved:
            candidates.append(resolved)
        if isinstance(name, str) and isinstance(module, str):
            candidates.append(f"{module}.{name}")
        if isinstance(name, str):
            candidates.append(f"torch.{name}")  # methods of classes other than Tensor
        if isinstance(short, str):
            candidates += [f"{home}.{short}" for home in _HOMES]
    for path in candidates:
        if "<" not in path and _lookup(path) is obj:
            return path
    return None


def _lookup(path: str) -> Any:
    """The object at a dotted path, or a sentinel when there is none; imports nothing new."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        found: Any = module
        try:
            for part in parts[cut:]:
                found = getattr(found, part)
        except AttributeError:
            continue
        return found
    return _lookup


class _Writer:
    """Turns values into expressions and remembers the imports and constants that they need."""

    def __init__(self, *, readable: bool) -> None:
        self.readable = readable
        self.imports: dict[str, None] = {"import torch": None}
        self.constants: dict[str, Any] = {}
        self._constant_names: dict[int, str] = {}

    def constant(self, obj: Any, stem: str) -> str:
        name = self._constant_names.get(id(obj))
        if name is None:
            stem = "".join(c if c.isalnum() else "_" for c in stem) or "constant"
            if stem[0].isdigit():
                stem = "_" + stem
            name, number = f"_{stem.lstrip('_')}", 0
            while name in self.constants:
                number += 1
                name = f"_{stem.lstrip('_')}_{number}"
            self._constant_names[id(obj)] = name
            self.constants[name] = obj
        return name

    def expression(self, value: Any) -> str:
        kind = type(value)
        if kind is Var:
            return value.name
        if kind is float:
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        if kind in _LITERALS:
            return "..." if value is Ellipsis else repr(value)
        if kind is tuple or kind is torch.Size:
            inner = ", ".join([self.expression(item) for item in value])
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if kind is list:
            return "[" + ", ".join([self.expression(item) for item in value]) + "]"
        if kind is dict:
            return "{" + ", ".join([f"{self.expression(k)}: {self.expression(v)}" for k, v in value.items()]) + "}"
        if kind is slice:
            return f"slice({', '.join(self.expression(p) for p in (value.start, value.stop, value.step))})"
        if kind is complex:
            return f"complex({self.expression(value.real)}, {self.expression(value.imag)})"
        if kind in _TORCH_LITERALS:
            return repr(value)
        if kind is torch.device:
            return f'torch.device("{value}")'
        if isinstance(value, Region):
            return self.target(value)
        if self.readable:
            path = self.importable_path(value)
            if path is not None:
                return path
        return self.constant(value, getattr(value, "__name__", None) or kind.__name__)

    def importable_path(self, obj: Any) -> str | None:
        """A public path with its import noted, or None when the object has to be handed over as a constant."""
        if isinstance(obj, enum.Enum):
            owner = self.importable_path(type(obj))
            return f"{owner}.{obj.name}" if owner else None
        path = public_path(obj)
        if path is None:
            return None
        parts = path.split(".")
        if parts[0] == "builtins":
            return path.removeprefix("builtins.")
        if parts[0] == "__main__":
            return None
        if parts[0] != "torch":
            module = ".".join(parts[:-1])
            while module and module not in sys.modules:
                module = module.rpartition(".")[0]
            if not module:
                return None
            self.imports[f"import {module}"] = None
        elif parts[1:2] == ["_VF"]:
            self.imports["import torch._VF"] = None
        return path

    def target(self, target: Callable[..., Any]) -> str:
        if isinstance(target, Region):
            return target.name if self.readable else self.constant(target.callable(), target.name)
        if self.readable:
            path = self.importable_path(target)
            if path is not None:
                return path
        return self.constant(target, getattr(target, "__name__", type(target).__name__))

    def assignment(self, result: Any, defined: set[str]) -> str:
        """`t0`, `t0, (t1, _)` ..., or empty when nothing new is bound; adds the new names to `defined`."""
        if isinstance(result, Var):
            if result.name in defined:
                return ""
            defined.add(result.name)
            return result.name
        if isinstance(result, (tuple, list)):
            parts = [self.assignment(item, defined) or "_" for item in result]
            if all(part == "_" for part in parts):
                return ""
            inner = ", ".join(parts)
            return f"({inner},)" if len(parts) == 1 else f"({inner})"
        return ""

    def statement(self, op: Op, defined: set[str]) -> str:
        if op.target is delete:
            return "del " + ", ".join(var.name for var in op.inputs())
        arguments = [self.expression(arg) for arg in op.args]
        arguments += [f"{key}={self.expression(value)}" for key, value in op.kwargs.items()]
        left = self.assignment(op.result, defined)
        given, before = ", ".join(arguments), ""
        if not self.readable and isinstance(op.target, Region) and op.target.boxed:
            given = f"[{given}]"
            dead = op.tags.get("arguments_are_moved")
            if dead:
                before = f"arguments_ = {given}; del {', '.join(var.name for var in dead)}; "
                given = "arguments_"
        call = f"{self.target(op.target)}({given})"
        if left.startswith("(") and left.endswith(")") and not left.endswith(",)"):
            left = left[1:-1]
        return before + (f"{left} = {call}" if left else call)


def _location_comment(op: Op) -> str:
    assert op.location is not None
    text = op.location.text
    return f"# {os.path.basename(op.location.filename)}:{op.location.line}" + (f"  {text}" if text else "")


def _write_function(writer: _Writer, trace: Trace, *, types: bool, locations: bool) -> list[str]:
    lines = [f"def {trace.name}({', '.join(var.name for var in trace.inputs)}):"]
    if types:
        for start in range(0, len(trace.inputs), 4):
            group = trace.inputs[start : start + 4]
            lines.append("    # " + "  ".join(f'{var.name}: "{var.describe()}"' for var in group))
    defined = {var.name for var in trace.inputs}
    previous = None
    for op in trace.ops if writer.readable else _moved_into_boxes(trace.ops):
        if locations and op.location is not None and op.location[:2] != previous:
            previous = op.location[:2]
            lines.append(f"    {_location_comment(op)}")
        line = f"    {writer.statement(op, defined)}"
        if types and op.target is not delete:
            described = [f'{var.name}: "{var.describe()}"' for var in op.outputs()]
            if described:
                line += "   # " + "  ".join(described)
        lines.append(line)
    lines.append(f"    return {writer.expression(trace.output)}")
    return lines


def _moved_into_boxes(ops: list[Op]) -> list[Op]:
    """Where arguments of a boxed region die with the call, they are given up before it, so that it can free them."""
    moved: list[Op] = []
    skip = False
    for op, following in zip(ops, [*ops[1:], None]):
        if skip:
            skip = False
            continue
        if isinstance(op.target, Region) and op.target.boxed and following is not None and following.target is delete:
            given = {id(var) for var in op.inputs()}
            dead = [var for var in following.inputs() if id(var) in given]
            rest = [var for var in following.inputs() if id(var) not in given]
            if dead:
                op = replace(op, tags={**op.tags, "arguments_are_moved": dead})
                skip = True
                moved.append(op)
                if rest:
                    moved.append(replace(following, args=tuple(rest)))
                continue
        moved.append(op)
    return moved


def print_trace(trace: Trace, *, types: bool = True, locations: bool = True) -> str:
    """Source of `trace`: provenance, imports, the regions it calls, then the function."""
    writer = _Writer(readable=True)
    bodies: list[str] = []
    for region in trace.regions():
        named = region.trace if region.trace.name == region.name else region.trace.replace(name=region.name)
        bodies += [f"# region {region.name}, executor: {region.executor}"]
        bodies += _write_function(writer, named, types=types, locations=locations) + ["", ""]
    bodies += _write_function(writer, trace, types=types, locations=locations)
    head = [f"# {line}" for line in trace.history]
    head += list(writer.imports)
    for name, constant in writer.constants.items():
        head.append(f"# {name}: an object of the program, {type(constant).__qualname__}")
    return "\n".join([*head, "", "", *bodies]) + "\n"


def trace_constants(trace: Trace) -> dict[str, Any]:
    """Objects that the printed source names but cannot import (lambdas, instances), by name."""
    writer = _Writer(readable=True)
    for region in trace.regions():
        _write_function(writer, region.trace, types=False, locations=False)
    _write_function(writer, trace, types=False, locations=False)
    return writer.constants


def compile_trace(trace: Trace, *, boxed: bool = False) -> Callable[..., Any]:
    """The function that `trace` describes; its source is registered so that tracebacks show the statements.

    `boxed`: it takes its arguments as one list, which it empties.
    """
    writer = _Writer(readable=False)
    lines = _write_function(writer, trace, types=False, locations=False)
    if boxed:
        names = "".join(f"{var.name}, " for var in trace.inputs)
        unpack = [f"    {names}= arguments", "    arguments.clear()"] if names else []
        lines = [f"def {trace.name}(arguments):", *unpack, *lines[1:]]
    source = "\n".join(lines) + "\n"
    return compile_source(source, trace.name, {"torch": torch, **writer.constants})


def compile_source(source: str, name: str, namespace: dict[str, Any]) -> Callable[..., Any]:
    """Executes `source` and returns the function `name` that it defines; the source is known as long as its code is."""
    filename = f"<thunder {name} {next(_file_numbers)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)
    function = namespace[name]
    function.source = source
    weakref.finalize(function.__code__, linecache.cache.pop, filename, None).atexit = False
    return function


def run_source(source: str, name: str, constants: dict[str, Any] | None = None) -> Callable[..., Any]:
    """What pasting does: executes printed source in a fresh namespace and returns the function `name`."""
    for line in source.splitlines():
        if line.startswith("import "):
            importlib.import_module(line.removeprefix("import ").strip())
    return compile_source(source, name, dict(constants or {}))
