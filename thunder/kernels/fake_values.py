"""Keeps the example values of a trace true after an operation has come to give another memory layout.

Input: a rewritten torch-level trace.  Output: the Vars whose values differ now, with the new values; None when an
operation does not work on the new layout (`view` of what is no longer contiguous).
"""

from __future__ import annotations

from typing import Any

import torch

from thunder import _torch_compat
from thunder.lower.state import is_state_statement
from thunder.trace import Trace, Var, map_vars
from thunder.trace.trace import regions_of_op


def refreshed_values(trace: Trace, new: set[int]) -> list[tuple[Var, Any]] | None:
    """Runs again, on fake tensors, the operations whose ids are in `new`, and what depends on their results."""
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
