"""Torch-level traces without acquisition: records the public torch calls of a function on fake tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from thunder import _torch_compat
from thunder.errors import Location
from thunder.trace import Namer, Op, Region, Trace, Var

QUERIES = {"size", "stride", "dim", "numel", "is_floating_point", "is_contiguous", "__len__", "data_ptr"}


def checkpointed(function: Callable[..., Any], *args: torch.Tensor) -> Any:
    """`torch.utils.checkpoint.checkpoint` as the recorder sees it: the function becomes a region."""
    if has_torch_function(args):
        return handle_torch_function(checkpointed, args, function, *args)
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)


class Recorder(TorchFunctionMode):
    """Appends every torch call to `ops`; knows the Var of each tensor that it has seen."""

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()
        self.fake_mode = fake_mode
        self.ops: list[Op] = []
        self.vars: dict[int, Var] = {}
        self.keep: list[Any] = []
        self.namer = Namer()
        self.scopes: list[str] = [""]
        self.constants: dict[Var, torch.Tensor] = {}

    def var(self, value: Any, stem: str = "t") -> Var:
        if id(value) not in self.vars:
            self.vars[id(value)] = Var(self.namer.fresh(stem), value)
            self.keep.append(value)
        return self.vars[id(value)]

    def structure(self, value: Any) -> Any:
        """Tensors and contexts that are known, replaced by their Vars."""

        def leaf(item: Any) -> Any:
            return self.var(item) if isinstance(item, torch.Tensor) or id(item) in self.vars else item

        if type(value).__module__ == "torch.return_types":
            value = tuple(value)
        if isinstance(value, slice):
            return slice(leaf(value.start), leaf(value.stop), leaf(value.step))
        if isinstance(value, (tuple, list)):
            return type(value)(self.structure(item) for item in value)
        if isinstance(value, dict):
            return {key: self.structure(item) for key, item in value.items()}
        return leaf(value)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        args = pytree.tree_map_only(torch.nn.Parameter, lambda p: p, args)
        if func is checkpointed:
            return self.checkpoint(args, kwargs)
        return self.call(func, args, kwargs)

    def checkpoint(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The function becomes a region; tensors that it takes from outside become arguments."""
        function, *rest = args
        outer, self.ops = self.ops, []
        with self:
            result = function(*rest)
        inner, self.ops = self.ops, outer
        defined = {id(var) for op in inner for var in op.outputs()}
        taken = {id(var): var for op in inner for var in op.inputs() if id(var) not in defined}
        output = self.structure(result)
        region = Region(f"checkpointed_{len(outer)}", Trace("checkpointed", list(taken.values()), inner, output))
        options = {"use_reentrant": False}
        self.ops.append(Op(torch.utils.checkpoint.checkpoint, (region, *taken.values()), options, output))
        return result

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        has_tensor = any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(result))
        statement = name.startswith(("_set_", "_exit_")) or name in ("manual_seed", "__setitem__", "register_hook")
        if (name == "__get__" and not has_tensor) or name in QUERIES:
            return result
        if not (has_tensor or statement or (name.endswith("_") and not name.endswith("__"))):
            return result
        frame = sys._getframe(1)
        while frame is not None and "/torch/" in frame.f_code.co_filename:
            frame = frame.f_back
        location = Location(frame.f_code.co_filename, frame.f_lineno) if frame is not None else None
        arguments = self.structure(args), self.structure(kwargs)
        self.ops.append(Op(func, *arguments, self.structure(result), location, self.scopes[-1]))
        return result


@contextmanager
def contexts_as_statements(recorder: Recorder) -> Iterator[None]:
    """Within the block, `with torch.autocast(...)` and `with torch.inference_mode()` make torch calls."""
    amp, grad_mode = torch.amp.autocast_mode, torch.autograd.grad_mode
    statements = _torch_compat.context_statements()
    saved = [(cls, cls.__enter__, cls.__exit__) for cls in (torch.autocast, torch.inference_mode)]

    def enter(self):
        if isinstance(self, torch.autocast):
            arguments = (self.device, self.fast_dtype, self._enabled, self._cache_enabled)
            context = getattr(amp, "_UnmanagedAutocast", torch.autocast)(*arguments)  # 2.11 has one class
            saved[0][1](context)
            target = amp._enter_autocast
        else:
            arguments, target = (self.mode,), grad_mode._enter_inference_mode
            context = target(self.mode)
        var = recorder.var(context, "context")
        recorder.ops.append(Op(target, arguments, {}, var, None, recorder.scopes[-1]))
        self.entered = (target, context, var)
        return self

    def leave(self, *error):
        target, context, var = self.entered
        recorder.ops.append(Op(statements[target], (var,), {}, None, None, recorder.scopes[-1]))
        if isinstance(self, torch.autocast):
            saved[0][2](context, None, None, None)
        else:
            statements[target](context)

    def apply(cls, *args, **kwargs):
        with torch._C.DisableTorchFunction():
            return recorder.call(MethodType(original_apply.__func__, cls), args, kwargs)

    original_apply = torch.autograd.Function.__dict__["apply"]
    try:
        for cls, _, _ in saved:
            cls.__enter__, cls.__exit__ = enter, leave
        torch.autograd.Function.apply = classmethod(apply)
        yield
    finally:
        torch.autograd.Function.apply = original_apply
        for cls, original_enter, original_exit in saved:
            cls.__enter__, cls.__exit__ = original_enter, original_exit


def record(function: Callable[..., Any], *args: Any, name: str = "computation") -> tuple[Trace, list[Any]]:
    """Records `function(*args)`; a module's parameters and buffers become inputs after the tensors in `args`.

    Returns the trace and the real tensors of its inputs.
    """
    fake_mode = FakeTensorMode()
    recorder = Recorder(fake_mode)
    inputs: list[Var] = []
    real: list[torch.Tensor] = []

    def fake(value: Any, stem: str) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        converted = fake_mode.from_tensor(value)
        recorder.keep.append(converted)
        if id(converted) not in recorder.vars:
            var = Var(recorder.namer.fresh(stem, numbered=False), converted)
            recorder.vars[id(converted)] = var
            inputs.append(var)
            real.append(value)
        return converted

    fake_args = [pytree.tree_map(lambda value: fake(value, "x"), arg) for arg in args]
    originals: list[tuple[dict, str, Any]] = []
    handles = []
    if isinstance(function, torch.nn.Module):
        for path, module in function.named_modules():
            for store in (module._parameters, module._buffers):
                for key, value in store.items():
                    if value is not None:
                        originals.append((store, key, value))
                        stem = f"{path}.{key}".replace(".", "_").lstrip("_")
                        store[key] = fake(value, stem if stem.isidentifier() else "p_" + stem)

            def enter(module, args, path=path):
                recorder.scopes.append(path)

            def leave(module, args, output):
                recorder.scopes.pop()

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with fake_mode, contexts_as_statements(recorder), recorder:
            output = function(*fake_args)
    finally:
        for store, key, value in originals:
            store[key] = value
        for handle in handles:
            handle.remove()
    flat = tuple(recorder.structure(leaf) for leaf in pytree.tree_leaves(output))
    return Trace(name, inputs, recorder.ops, flat), real
