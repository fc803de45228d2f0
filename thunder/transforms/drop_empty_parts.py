"""Leaves out copies that put nothing, or everything, in the place of something.

A slice may turn out empty, or whole, for the sizes that a program is compiled for: rotary embeddings of all of a head's
elements concatenate what is left with nothing, and the gradient of that slice writes nothing into zeros.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from thunder.lower.operators import aten
from thunder.trace import Op, Trace, Var, map_vars, trace_pass
from thunder.transforms.aliases import escaping_values


@trace_pass
def drop_empty_parts(trace: Trace) -> Trace:
    """Concatenations without their empty parts; slices that replace nothing, or all, of a tensor.

    A value that has to have memory of its own, because an output shares it, becomes a copy.
    """
    escaping = escaping_values(trace)
    replaced: dict[int, Var] = {}
    kept: list[Op] = []
    for op in trace.ops:
        if any(id(var) in replaced for var in op.inputs()):
            op = op.map_inputs(lambda var: replaced.get(id(var), var))
        if op.target is aten.cat.default:
            op = _without_empty_parts(op)
        source = _whole_source(op)
        if source is not None and _is_laid_out_alike(source.value, op.result.value):
            if id(op.result) not in escaping:
                replaced[id(op.result)] = source
                continue
            op = replace(op, target=aten.clone.default, args=(source,), kwargs={})
        kept.append(op)
    if len(kept) == len(trace.ops) and all(new is old for new, old in zip(kept, trace.ops)):
        return trace
    return trace.replace(ops=kept, output=map_vars(lambda var: replaced.get(id(var), var), trace.output))


def _without_empty_parts(op: Op) -> Op:
    parts = op.args[0]
    if not all(isinstance(part, Var) for part in parts):
        return op
    filled = [part for part in parts if part.value.numel() > 0]
    alike = all(part.value.dtype is op.result.value.dtype for part in parts)
    if not filled or len(filled) == len(parts) or not alike:
        return op
    return replace(op, args=(filled, *op.args[1:]))


def _whole_source(op: Op) -> Var | None:
    """The argument that the result is equal to."""
    if op.target is aten.cat.default:
        parts = op.args[0]
        return parts[0] if len(parts) == 1 and isinstance(parts[0], Var) else None
    if op.target is aten.slice_scatter.default:
        base, part = op.args[0], op.args[1]
        if not (isinstance(base, Var) and isinstance(part, Var)) or base.value.dtype is not part.value.dtype:
            return None
        if part.value.numel() == 0:
            return base
        step = op.args[5] if len(op.args) > 5 else op.kwargs.get("step", 1)
        return part if part.value.shape == base.value.shape and step == 1 else None
    return None


def _is_laid_out_alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and first.dtype is second.dtype and first.stride() == second.stride()
