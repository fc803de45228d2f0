"""Queries laid out so that what comes out of attention needs no copy.

Input: a torch-level trace.  Output: the same program, in which queries `[b, h, s, d]` that lie head by head in memory
lie position by position, where the result of attention is brought into that order at once.

PyTorch's fused attention gives its result in the memory order of the queries.  Programs that put queries together head
by head (rotary embedding with `cat`) therefore copy the result before the next linear layer.  The operations that make
the queries write them in any order equally well, the more so in one kernel.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import current_mode, is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings
from thunder.trace import Namer, Op, Trace, Var, trace_pass

# What gives the same values in the same order whatever the strides of its argument are.
_TAKES_ANY_STRIDES = frozenset({"reshape", "contiguous", "flatten"})


def position_by_position(heads: torch.Tensor) -> torch.Tensor:
    """The same `[b, h, s, d]`, in memory as `[b, s, h, d]`."""
    return heads.transpose(1, 2).contiguous().transpose(1, 2)


@trace_pass
def lay_out_queries(trace: Trace) -> Trace:
    """Has queries lie position by position where that saves a copy of attention's result."""
    if is_disabled("attention_layout"):
        return trace
    definitions, surroundings = Definitions(trace), Surroundings(trace)
    namer = Namer({var.name for var in trace.variables()})
    ops: list[Op] = []
    for op in trace.ops:
        query = _query_head_by_head(op, definitions)
        if query is not None and _is_reordered(op, definitions, surroundings):
            laid_out = Var(namer.fresh("query"), query.value)
            ops.append(Op(position_by_position, (query,), {}, laid_out, op.location, op.scope))
            arguments = {**definitions.call(op).arguments, "query": laid_out}
            positional = tuple(arguments.pop(name) for name in ("query", "key", "value"))
            op = replace(op, args=positional, kwargs={str(name): value for name, value in arguments.items()})
        ops.append(op)
    return trace if len(ops) == len(trace.ops) else trace.replace(ops=ops)


def _query_head_by_head(op: Op, definitions: Definitions) -> Var | None:
    """The queries of a call of attention that PyTorch has a fused kernel for, when they lie head by head."""
    if op.name != "scaled_dot_product_attention" or not isinstance(op.result, Var):
        return None
    query = definitions.call(op).arguments.get("query")
    if not isinstance(query, Var) or id(query) not in definitions.makers or query.value.dim() != 4:
        return None
    value = query.value
    if any(type(size) is not int for size in value.shape) or not is_wanted_on(value.device.type):
        return None
    fits = value.element_size() == 2 or current_mode() == "always"
    return query if fits and value.shape[1] > 1 and value.shape[2] > 1 and value.is_contiguous() else None


def _is_reordered(op: Op, definitions: Definitions, surroundings: Surroundings) -> bool:
    """Whether the result is used as `[b, s, h, d]` alone, by operations that take any strides."""
    users = surroundings.users.get(id(op.result), [])
    for user in users:
        call = definitions.call(user)
        if call.name != "transpose" or not isinstance(user.result, Var) or id(user.result) in surroundings.returned:
            return False
        if sorted(call.arguments.get(name, 0) for name in ("dim0", "dim1")) not in ([1, 2], [-3, -2]):
            return False
        if any(other.name not in _TAKES_ANY_STRIDES for other in surroundings.users.get(id(user.result), [])):
            return False
    return bool(users) and id(op.result) not in surroundings.returned
