"""Merges linear layers that share their input: query, key and value; gate and up.

Input: a torch-level trace.  Output: the same program in which such layers are one call of `thunder::merged_linear`
and a split of its result.  `placement.place_together` then moves the weights behind one another in memory: the
parameters stay what they are and become views of one storage; nothing is kept twice.

Only calls without gradients are merged.  The operation itself looks up where the weights lie: replacing or moving a
parameter at any time is correct, and costs the merging until the program is compiled again.
"""

from __future__ import annotations

from typing import Any

import torch

from thunder.kernels.fake_values import refreshed_values
from thunder.kernels.merged_linear import MERGED_LINEAR
from thunder.kernels.pattern import Definitions, NormalCall
from thunder.kernels.registry import is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings
from thunder.trace import Namer, Op, Trace, Var, trace_pass


@trace_pass
def merge_projections(trace: Trace) -> Trace:
    """Linear layers of parameters that share their input become one."""
    if is_disabled("merge_projections"):
        return trace
    definitions = Definitions(trace)
    surroundings = Surroundings(trace)
    namer = Namer({var.name for var in trace.variables()})
    replaced: dict[int, list[Op]] = {}
    for group in _groups(trace, definitions):
        ops = [op for op, _ in group]
        values = [var for op in ops for var in op.inputs()]
        if surroundings.may_move(ops, ops[-1], values):
            replaced[id(ops[0])] = _merged_call(group, namer)
            replaced.update((id(op), []) for op in ops[1:])
    if not replaced:
        return trace
    merged_trace = trace.replace(ops=[new for op in trace.ops for new in replaced.get(id(op), [op])])
    values_after = refreshed_values(merged_trace, {id(op) for new in replaced.values() for op in new})
    if values_after is None:
        return trace
    for var, value in values_after:
        var.value = value
    return merged_trace


def _groups(trace: Trace, definitions: Definitions) -> list[list[tuple[Op, NormalCall]]]:
    """Two or more linear layers each, of the same input and with weights of the same kind."""
    parameters = {id(var) for var in trace.inputs}
    groups: dict[Any, list[tuple[Op, NormalCall]]] = {}
    for op in trace.ops:
        if op.name != "linear" or not isinstance(op.result, Var):
            continue
        call = definitions.call(op)
        x, weight, bias = call.arguments.get("input"), call.arguments.get("weight"), call.arguments.get("bias")
        if not isinstance(x, Var) or not isinstance(weight, Var) or id(weight) not in parameters:
            continue
        if bias is not None and not (isinstance(bias, Var) and id(bias) in parameters):
            continue
        if op.result.value.requires_grad or not is_wanted_on(x.value.device.type):
            continue
        if op.result.value.dtype != weight.value.dtype or not weight.value.is_contiguous():
            continue
        groups.setdefault((id(x), weight.value.dtype, bias is None), []).append((op, call))
    distinct = [g for g in groups.values() if len({id(call.arguments["weight"]) for _, call in g}) == len(g)]
    return [group for group in distinct if len(group) > 1]


def _merged_call(group: list[tuple[Op, NormalCall]], namer: Namer) -> list[Op]:
    first = group[0][0]
    x = group[0][1].arguments["input"]
    weights = [call.arguments["weight"] for _, call in group]
    biases = [call.arguments["bias"] for _, call in group if "bias" in call.arguments]
    sizes = [weight.value.shape[0] for weight in weights]
    value = first.result.value
    joined = Var(namer.fresh("merged"), value.new_empty((*value.shape[:-1], sum(sizes))))
    call = Op(MERGED_LINEAR, (x, weights, biases), {}, joined, first.location, first.scope)
    results = tuple(op.result for op, _ in group)
    parts = Op(torch.Tensor.split, (joined, sizes, -1), {}, results, first.location, first.scope)
    return [call, parts]
