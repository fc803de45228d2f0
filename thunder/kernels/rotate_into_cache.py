"""Rotation of queries and keys and the two writes to a cache, as decoders do them, become one kernel.

Input: a torch-level trace, before `substitute_kernels`.  Output: the same program, in which

    q, k = rope(q, cos, sin), rope(k, cos, sin); keys.index_copy_(2, slots, k); values.index_copy_(2, slots, v)

is `q = thunder::rope_into_cache(q, k, v, cos, sin, keys, values, slots)`.  A decoding step launches four kernels for
these otherwise, each of which takes longer to start than to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from thunder.kernels.pattern import Definitions, Match, match_at
from thunder.kernels.registry import Kernel, active_kernels, is_wanted_on
from thunder.kernels.rope import ROPE_INTO_CACHE
from thunder.kernels.substitute import Surroundings
from thunder.trace import Op, Trace, Var, trace_pass


@trace_pass
def rotate_into_cache(trace: Trace) -> Trace:
    """Joins them where nothing in between looks at the cache."""
    rope = next((kernel for kernel in active_kernels(is_fused=False) if kernel.name == "rope"), None)
    writes = [op for op in trace.ops if op.name == "index_copy_"]
    if rope is None or len(writes) < 2:
        return trace
    definitions, surroundings = Definitions(trace), Surroundings(trace)
    found = list(rotations(trace, rope, definitions))
    replaced: dict[int, Op | None] = {}
    for first, second in zip(writes, writes[1:]):
        if id(first) in replaced or not _are_a_pair(first, second):
            continue
        left = [(op, match) for op, match in found if id(op) not in replaced]
        joined = _join(first, second, left, surroundings)
        if joined is not None:
            ops, place, call = joined
            replaced |= {id(op): None for op in ops}
            replaced[id(place)] = call
    if not replaced:
        return trace
    return trace.replace(ops=[new for op in trace.ops if (new := replaced.get(id(op), op)) is not None])


def rotations(trace: Trace, rope: Kernel, definitions: Definitions) -> Iterator[tuple[Op, Match]]:
    """What the kernel `rope` could compute, by its last operation."""
    for op in trace.ops:
        for pattern in rope.patterns:
            if pattern.root_name != definitions.call(op).name:
                continue
            match = next(match_at(pattern, op, definitions), None)
            if match is None or len(match.outputs) != 1:
                continue
            values = {name: var.value if isinstance(var, Var) else var for name, var in match.bindings.items()}
            if rope.check(**values):
                yield op, match
                break


def _are_a_pair(first: Op, second: Op) -> bool:
    """Whether they write along dimension 2 to equal places of two caches, of which nobody uses the results."""
    for op in (first, second):
        if op.kwargs or len(op.args) != 4 or op.args[1] not in (2, -2) or not isinstance(op.args[3], Var):
            return False
        if not isinstance(op.args[0], Var) or op.result not in (None, op.args[0]):
            return False
        cache, source = op.args[0].value, op.args[3].value
        if cache.dim() != 4 or source.dim() != 4 or cache.dtype != source.dtype or cache.stride(3) != 1:
            return False
        if not is_wanted_on(cache.device.type) or cache.requires_grad or source.requires_grad:
            return False
    shapes = [tuple(op.args[3].value.shape) for op in (first, second)]
    return first.args[2] is second.args[2] and first.args[0] is not second.args[0] and shapes[0] == shapes[1]


def _join(
    first: Op, second: Op, found: list[tuple[Op, Match]], surroundings: Surroundings
) -> tuple[list[Op], Op, Op] | None:
    """(operations to leave out, the one at whose place the call comes, the call)."""
    rotated_key = next(((op, match) for op, match in found if op.result is first.args[3]), None)
    if rotated_key is None or len(surroundings.users.get(id(first.args[3]), ())) != 1:
        return None
    key_op, key_match = rotated_key
    tables = key_match.bindings["cos"], key_match.bindings["sin"]
    nearby = [
        (op, match)
        for op, match in found
        if op is not key_op and (match.bindings["cos"], match.bindings["sin"]) == tables
    ]
    if not nearby:
        return None
    here = surroundings.positions[id(key_op)]
    query_op, query_match = min(nearby, key=lambda pair: abs(surroundings.positions[id(pair[0])] - here))
    query = query_match.bindings["x"]
    place = max((second, query_op), key=lambda op: surroundings.positions[id(op)])
    start, end = min(here, surroundings.positions[id(query_op)]), surroundings.positions[id(place)]
    keys, values = first.args[0], second.args[0]
    members = [*key_match.ops, *query_match.ops, first, second]
    known = {id(op) for op in members}
    for op in surroundings.trace.ops[start:end]:
        used = {id(var) for var in op.inputs()}
        if id(op) not in known and used & {id(keys), id(values), id(query_op.result)}:
            return None
    if not (
        surroundings.are_private(key_match.ops, [first.args[3]], key_op)
        and surroundings.are_private(query_match.ops, [query_op.result], place)
    ):
        return None
    if query.value.dtype != keys.value.dtype or query.value.requires_grad:
        return None
    arguments = (query, key_match.bindings["x"], second.args[3], *tables, keys, values, first.args[2])
    if any(isinstance(size, torch.SymInt) for var in arguments for size in var.value.shape):
        return None
    result: Any = query_op.result
    call = Op(ROPE_INTO_CACHE, arguments, {}, result, first.location, first.scope)
    return [op for op in members if op is not place], place, call
