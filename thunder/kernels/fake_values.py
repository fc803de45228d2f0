"""What operations would give, found out on fake tensors.

`results_like`: what the values of a call's results would look like; within `remembered_runs`, calls that differ in the
names of their arguments only are run once, as a program of many layers is full of these.

`refreshed_values` keeps the example values of a trace true after an operation has come to give another memory layout.
Input: a rewritten torch-level trace.  Output: the Vars whose values differ now, with the new values; None when an
operation does not work on the new layout (`view` of what is no longer contiguous).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Hashable, Iterator
from typing import Any

import torch

from thunder import _torch_compat
from thunder.lower.state import is_state_statement
from thunder.trace import Op, Trace, Var, map_vars
from thunder.trace.trace import regions_of_op

_runs: contextvars.ContextVar[dict[Hashable, Any] | None] = contextvars.ContextVar("fake_runs", default=None)


@contextlib.contextmanager
def remembered_runs() -> Iterator[None]:
    """Within the block, results are remembered."""
    token = _runs.set({})
    try:
        yield
    finally:
        _runs.reset(token)


def results_like(call: Op) -> Any:
    """Tensors like what the call gives for the values of its Vars; not to be kept, others are given the same ones."""
    runs = _runs.get()
    key = None if runs is None else call_key(call)
    if runs is not None and key in runs:
        return runs[key]
    result = run_on_fake_tensors(call)
    if runs is not None and key is not None:
        runs[key] = result
    return result


def run_on_fake_tensors(call: Op) -> Any:
    """What the call gives for the values of its Vars."""
    mode = next(var.value.fake_mode for var in call.inputs() if _is_fake(var.value))
    valued = call.map_inputs(lambda var: var.value)
    with mode, torch.no_grad():
        return call.target(*valued.args, **valued.kwargs)


def call_key(call: Op) -> Hashable | None:
    """Equal for calls that differ in which tensors they are given, and not in what these look like."""
    numbers: dict[int, int] = {}

    def structure(value: Any) -> Hashable:
        if isinstance(value, Var):
            tensor = value.value
            number = numbers.setdefault(id(value), len(numbers))
            if not isinstance(tensor, torch.Tensor):
                return (number, type(tensor), tensor)
            described = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device)
            return (number, *described, tensor.requires_grad)
        if isinstance(value, (tuple, list)):
            return (type(value), *map(structure, value))
        if isinstance(value, dict):
            return tuple((name, structure(item)) for name, item in value.items())
        return (type(value), repr(value) if isinstance(value, float) else value)

    key = (call.target, structure(call.args), structure(call.kwargs))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def is_alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have the same shape, dtype, device, and strides where these matter."""
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        return False
    pairs = zip(first.shape, first.stride(), second.stride())
    return all(size == 1 or mine == theirs for size, mine, theirs in pairs) or first.numel() == 0


def refreshed_values(trace: Trace, new: set[int]) -> list[tuple[Var, Any]] | None:
    """Runs again, on fake tensors, the operations whose ids are in `new`, and what depends on their layout."""
    mode = next((var.value.fake_mode for var in trace.inputs if _is_fake(var.value)), None)
    if mode is None:
        return []
    changed: dict[int, tuple[Var, Any]] = {}
    storages: set[int] = set()
    known = {id(var) for var in trace.inputs}
    for op in trace.ops:
        outputs = list(op.outputs())
        is_new = all(id(var) not in known for var in outputs)
        known.update(id(var) for var in outputs)
        follows = any(id(var) in changed for var in op.inputs())
        runs_again = (id(op) in new or follows) and bool(outputs) and is_new
        if not runs_again or is_state_statement(op) or any(True for _ in regions_of_op(op)):
            continue

        def value_of(var: Var) -> Any:
            return changed[id(var)][1] if id(var) in changed else var.value

        try:
            with mode, torch.no_grad():
                result = op.target(*map_vars(value_of, op.args), **map_vars(value_of, op.kwargs))
        except RuntimeError:  # as PyTorch says that a view is impossible
            return None
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(results) != len(outputs):
            return None
        for var, value in zip(outputs, results):
            if not isinstance(value, torch.Tensor) or not isinstance(var.value, torch.Tensor):
                continue
            if value.shape != var.value.shape or value.dtype != var.value.dtype:
                return None
            is_view = _torch_compat.storage_key(value) in storages
            if is_view or value.stride() != var.value.stride():  # else what follows is as it was
                storages.add(_torch_compat.storage_key(value))
                with mode:
                    changed[id(var)] = (var, value.detach().requires_grad_(var.value.requires_grad))
    return list(changed.values())


def _is_fake(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and _torch_compat.is_fake(value)
