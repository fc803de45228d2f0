"""Merges products of one input with several quantised weights: query, key and value; gate and up.

Input: a torch-level trace.  Output: the same program in which such calls of `linear_weight_only` are one call of
`linear_weight_only_merged` and a split of its result.  Only calls without gradients on one row, as in decoding, are
merged: that is where a launch costs as much as the work.  Nothing is moved in memory.
"""

from __future__ import annotations

from typing import Any

import torch

from thunder.kernels.fake_values import refreshed_values
from thunder.kernels.registry import is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings
from thunder.trace import Namer, Op, Trace, Var, trace_pass

SINGLE = torch.ops.thunder.linear_weight_only.default
MERGED = torch.ops.thunder.linear_weight_only_merged.default
MOST_WEIGHTS = 3


@trace_pass
def merge_quantized_products(trace: Trace) -> Trace:
    """Products of the same row with weights of the same format become one."""
    if is_disabled("merge_quantized_products"):
        return trace
    groups: dict[Any, list[Op]] = {}
    for op in trace.ops:
        if op.target is SINGLE and _is_mergeable(op):
            x, format, bias = op.args[0], op.args[6], op.args[5]
            key = (id(x), format, bias is None, bias is not None and bias.value.dtype)
            groups.setdefault(key, []).append(op)
    surroundings, namer = Surroundings(trace), Namer({var.name for var in trace.variables()})
    replaced: dict[int, list[Op]] = {}
    for group in groups.values():
        for start in range(0, len(group), MOST_WEIGHTS):
            ops = group[start : start + MOST_WEIGHTS]
            values = [var for op in ops for var in op.inputs()]
            if len(ops) > 1 and surroundings.may_move(ops, ops[-1], values):
                replaced[id(ops[0])] = _merged(ops, namer)
                replaced.update((id(op), []) for op in ops[1:])
    if not replaced:
        return trace
    merged = trace.replace(ops=[new for op in trace.ops for new in replaced.get(id(op), [op])])
    values_after = refreshed_values(merged, {id(op) for new in replaced.values() for op in new})
    if values_after is None:
        return trace
    for var, value in values_after:
        var.value = value
    return merged


def _is_mergeable(op: Op) -> bool:
    x = op.args[0]
    if not isinstance(x, Var) or not isinstance(op.result, Var) or len(op.args) != 7:
        return False
    sizes = x.value.shape
    is_row = all(type(size) is int for size in sizes) and x.value.numel() == sizes[-1]
    return is_row and not op.result.value.requires_grad and is_wanted_on(x.value.device.type)


def _merged(ops: list[Op], namer: Namer) -> list[Op]:
    first = ops[0]
    columns = [[op.args[position] for op in ops if op.args[position] is not None] for position in range(1, 6)]
    sizes = [op.result.value.shape[-1] for op in ops]
    value = first.result.value
    joined = Var(namer.fresh("merged"), value.new_empty((*value.shape[:-1], sum(sizes))))
    call = Op(MERGED, (first.args[0], *columns, first.args[6]), {}, joined, first.location, first.scope)
    parts = Op(torch.Tensor.split, (joined, sizes, -1), {}, tuple(op.result for op in ops), first.location, first.scope)
    return [call, parts]
