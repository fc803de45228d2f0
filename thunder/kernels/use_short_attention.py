"""Attention of few tokens to each other becomes `thunder::short_attention`, with the rotation before it.

Input: a torch-level trace, after `improve_attention` and before `substitute_kernels`.  Output: the same program.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from thunder.kernels import short_attention
from thunder.kernels.attention import drop_unused, without_repetition
from thunder.kernels.attention_backends import attention_call, with_new_layouts
from thunder.kernels.pattern import Definitions, Match
from thunder.kernels.registry import active_kernels, is_disabled
from thunder.kernels.rotate_into_cache import rotations
from thunder.kernels.short_attention import SHORT_ATTENTION
from thunder.kernels.substitute import Surroundings
from thunder.trace import Op, Trace, Var, trace_pass


@trace_pass
def use_short_attention(trace: Trace) -> Trace:
    """Replaces attention without gradients, masks other than the causal one, and dropout."""
    if is_disabled("short_attention"):
        return trace
    definitions, surroundings = Definitions(trace), Surroundings(trace)
    calls: dict[int, Op] = {}
    for op in trace.ops:
        arguments = _arguments(op, definitions, surroundings)
        if arguments is not None:
            query, key, value, *others = arguments
            call = (query, key, value, None, None, *others)
            calls[id(op)] = replace(op, target=SHORT_ATTENTION, args=call, kwargs={})
    if not calls:
        return trace
    after = drop_unused(trace.replace(ops=[calls.get(id(op), op) for op in trace.ops]))
    after = with_new_layouts(trace, after, calls)
    return after if after is trace else _fold_rotations(after)


def _fold_rotations(trace: Trace) -> Trace:
    """The rotation of queries and keys becomes a part of the kernel."""
    rope = next((kernel for kernel in active_kernels(is_fused=False) if kernel.name == "rope"), None)
    if rope is None:
        return trace
    surroundings = Surroundings(trace)
    rotated = {id(op.result): match for op, match in rotations(trace, rope, Definitions(trace))}
    calls: dict[int, Op] = {}
    folded: set[int] = set()
    for op in trace.ops:
        if op.target is not SHORT_ATTENTION:
            continue
        query, key = rotated.get(id(op.args[0])), rotated.get(id(op.args[1]))
        if query is not None and key is not None and _may_be_folded(query, key, op, surroundings):
            tables = query.bindings["cos"], query.bindings["sin"]
            _, _, value, _, _, *others = op.args
            arguments = (query.bindings["x"], key.bindings["x"], value, *tables, *others)
            calls[id(op)] = replace(op, args=arguments)
            folded.update(id(member) for match in (query, key) for member in match.ops)
    return trace.replace(ops=[calls.get(id(op), op) for op in trace.ops if id(op) not in folded])


def _may_be_folded(query: Match, key: Match, attention: Op, surroundings: Surroundings) -> bool:
    """Whether both were rotated by the same tables, and nobody else uses the results."""
    if any(query.bindings[name] is not key.bindings[name] for name in ("cos", "sin")) or query is key:
        return False
    for match, result in ((query, attention.args[0]), (key, attention.args[1])):
        read = [match.bindings[name] for name in ("x", "cos", "sin")]
        if read[0].value.dtype is not result.value.dtype or any(var.value.stride(3) != 1 for var in read):
            return False
        is_returned = id(result) in surroundings.returned
        if is_returned or len(surroundings.users[id(result)]) != 1:
            return False
        if not surroundings.are_private(match.ops, [result], attention):
            return False
        if not surroundings.may_move(match.ops, attention, read, differentiable=False):
            return False
    return True


def _arguments(op: Op, definitions: Definitions, surroundings: Surroundings) -> tuple[Any, ...] | None:
    """(query, key, value, is_causal, scale) of a call that the kernel takes."""
    arguments = attention_call(op, definitions)
    if arguments is None or arguments.get("attn_mask") is not None or arguments.get("dropout_p", 0.0) != 0.0:
        return None
    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    is_causal, scale = arguments.get("is_causal", False), arguments.get("scale")
    if type(is_causal) is not bool or not isinstance(scale, (float, type(None))):
        return None
    plain_key, key_ops = without_repetition(key, query, definitions)
    plain_value, value_ops = without_repetition(value, query, definitions)
    if key_ops and value_ops and plain_key.value.shape == plain_value.value.shape:
        if surroundings.may_move(key_ops, op, [plain_key]) and surroundings.may_move(value_ops, op, [plain_value]):
            return _taken(query, plain_key, plain_value, is_causal, scale)
    if query.value.shape[1] != key.value.shape[1] and not arguments.get("enable_gqa", False):
        return None
    return _taken(query, key, value, is_causal, scale)


def _taken(query: Var, key: Var, value: Var, is_causal: bool, scale: float | None) -> tuple[Any, ...] | None:
    """The arguments, if the kernel takes them."""
    if query.value.dim() != 4 or not short_attention.is_supported(query.value, key.value, value.value):
        return None
    return query, key, value, is_causal, scale
