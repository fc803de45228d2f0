"""Passes that put collectives into assembled traces and choose where they begin and end.

`gather_parameters`: parts of parameters come in; each group of whole parameters is gathered before the operation that
needs it first, and its gather begins some operations ahead, so that it overlaps with the ones between.

`reduce_gradients`: whole gradients of this process come out of the operations; each bucket is reduced as soon as its
last gradient exists, and its end is waited for as late as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thunder.distributed.collectives import CollectiveRegions, Stages
from thunder.distributed.layout import Layout
from thunder.lower.operators import tensor_bytes
from thunder.trace import Namer, Op, Region, Trace, Var, map_vars, trace_pass


@dataclass
class Divided:
    """A parameter of a program: `whole` is what its operations use, `part` what the process has."""

    whole: Var
    part: Var
    layout: Layout


@trace_pass
def gather_parameters(
    trace: Trace, divided: Sequence[Divided], regions: CollectiveRegions, *, prefetch: int, stem: str = ""
) -> Trace:
    """Gathers the whole parameters that the trace uses and that are parts now.

    Args:
        trace: its inputs are the parts already; its operations still use the wholes.
        divided: the parameters.
        regions: makes the collectives.
        prefetch: how many groups ahead a gather begins.
        stem: added to the names of wholes, which must be new in the trace.
    """
    by_whole = {id(entry.whole): entry for entry in divided}
    namer = Namer({var.name for var in trace.variables()})
    wholes: dict[int, Var] = {}
    groups: list[tuple[int, list[Op], Op]] = []  # (where it is needed, its beginnings, its end)
    for position, op in enumerate(trace.ops):
        needed: dict[tuple[Any, ...], dict[int, Divided]] = {}
        for var in op.inputs():
            entry = by_whole.get(id(var))
            if entry is not None and id(var) not in wholes:
                layout = entry.layout
                key = (layout.seen_dtype, layout.device, layout.processes, layout.home)
                needed.setdefault(key, {})[id(var)] = entry
        for members in needed.values():
            groups.append((position, *_gather(list(members.values()), regions, namer, wholes, op)))
    for var in trace.output_vars():
        entry = by_whole.get(id(var))
        if entry is not None and id(var) not in wholes:
            groups.append((len(trace.ops), *_gather([entry], regions, namer, wholes, None)))
    if not groups:
        return trace
    before: dict[int, list[Op]] = {}
    begun = 0
    for number, (position, _, end) in enumerate(groups):
        for ahead in range(begun, min(number + 1, len(groups))):
            before.setdefault(position, []).extend(groups[ahead][1])
        begun = max(begun, number + 1)
        before.setdefault(position, []).append(end)
        # The next gathers run beside the operation that waited for this one.
        for ahead in range(begun, min(number + 1 + prefetch, len(groups))):
            before[position].extend(groups[ahead][1])
        begun = max(begun, min(number + 1 + prefetch, len(groups)))

    def exchanged(var: Var) -> Var:
        return wholes.get(id(var), var)

    ops: list[Op] = []
    for position, op in enumerate(trace.ops):
        ops += before.get(position, [])
        ops.append(op.map_inputs(exchanged))
    ops += before.get(len(trace.ops), [])
    return trace.replace(ops=ops, output=map_vars(exchanged, trace.output))


def _gather(
    members: list[Divided], regions: CollectiveRegions, namer: Namer, wholes: dict[int, Var], user: Op | None
) -> tuple[list[Op], Op]:
    """(operations that begin the gather, the one that ends it); the wholes get names."""
    name = user.target.name if user is not None and isinstance(user.target, Region) else "parameters"
    fake_mode = members[0].whole.value.fake_mode
    scope = user.scope if user is not None else ""
    stages = regions.gather([member.layout for member in members], fake_mode, name)
    results = []
    for member in members:
        whole = Var(namer.fresh(member.whole.name, numbered=False), member.whole.value)
        wholes[id(member.whole)] = whole
        results.append(whole)
    begins, end = _calls(stages, [member.part for member in members], results, namer, "gathered", scope)
    return begins, end


def _calls(
    stages: Stages, arguments: Sequence[Var], results: Sequence[Var], namer: Namer, stem: str, scope: str
) -> tuple[list[Op], Op]:
    """(the operations of all stages but the last, the last one)."""
    begins = []
    for region in stages.regions[:-1]:
        travelling = Var(namer.fresh(stem), region.trace.output[0].value)
        begins.append(Op(region, tuple(arguments), {}, (travelling,), None, scope))
        arguments = [travelling]
    return begins, Op(stages.regions[-1], tuple(arguments), {}, tuple(results), None, scope)


@dataclass
class Reduced:
    """A gradient to be reduced.

    Attributes:
        output: number of the trace's output that it is.
        layout: of its parameter.
        earlier: a gradient of this process that is added before, or None.
    """

    output: int
    layout: Layout
    earlier: Var | None = None


@trace_pass
def reduce_gradients(
    trace: Trace,
    reduced: Sequence[Reduced],
    regions: CollectiveRegions,
    *,
    bucket_bytes: int,
    in_flight: int | None,
) -> Trace:
    """Exchanges outputs of a backward trace that are gradients of this process for their averages.

    Args:
        trace: a backward trace; `reduced` says which of its outputs.
        regions: makes the collectives.
        bucket_bytes: gradients of consecutive operations share a bucket until it has this size.
        in_flight: reductions that may be under way at once, or None for any number: what they hold is not freed.
    """
    made = {id(var): position for position, op in enumerate(trace.ops) for var in op.outputs()}
    present = [entry for entry in reduced if isinstance(trace.output[entry.output], Var)]
    present.sort(key=lambda entry: made.get(id(trace.output[entry.output]), -1))
    buckets = make_buckets(present, lambda entry: trace.output[entry.output], made, bucket_bytes)
    if not buckets:
        return trace
    namer = Namer({var.name for var in trace.variables()})
    after: dict[int, list[Op]] = {}
    waiting: list[list[Op]] = []
    output = list(trace.output)
    for position, members in buckets:
        user = trace.ops[position] if position >= 0 else None
        name = user.target.name if user is not None and isinstance(user.target, Region) else "gradients"
        gradients = [trace.output[entry.output] for entry in members]
        earlier = [entry.earlier for entry in members if entry.earlier is not None]
        fake_mode = gradients[0].value.fake_mode
        stages = regions.reduce([entry.layout for entry in members], fake_mode, name, bool(earlier))
        results = [Var(namer.fresh("reduced"), out.value) for out in stages.regions[-1].trace.output]
        scope = user.scope if user is not None else ""
        begins, end = _calls(stages, [*gradients, *earlier], results, namer, "reducing", scope)
        slot = after.setdefault(position, [])
        while in_flight is not None and len(waiting) >= in_flight:
            slot.extend(waiting.pop(0))
        if waiting and len(waiting[-1]) > 1:
            slot.append(waiting[-1].pop(0))  # the second collective of the bucket before goes on
        slot.append(begins[0])
        waiting.append([*begins[1:], end])
        for entry, result in zip(members, results):
            output[entry.output] = result
    last = [stage[0] for stage in waiting if len(stage) > 1]
    ends = [op for stage in waiting for op in (stage[1:] if len(stage) > 1 else stage)]
    ops = list(after.get(-1, []))
    for position, op in enumerate(trace.ops):
        ops.append(op)
        ops += after.get(position, [])
    return trace.replace(ops=[*ops, *last, *ends], output=tuple(output))


def make_buckets(
    entries: Sequence[Reduced], var_of: Callable[[Reduced], Var], made: dict[int, int], bucket_bytes: int
) -> list[tuple[int, list[Reduced]]]:
    """(position of the operation that makes the last gradient, members) for each bucket.

    Members are of one dtype and device, and all of them are divided or none; gradients of one operation stay together.
    """
    buckets: list[tuple[int, list[Reduced]]] = []
    open_buckets: dict[tuple[Any, ...], list[Reduced]] = {}
    sizes: dict[tuple[Any, ...], int] = {}
    positions: dict[tuple[Any, ...], int] = {}

    def close(key: tuple[Any, ...]) -> None:
        buckets.append((positions.pop(key), open_buckets.pop(key)))
        del sizes[key]

    for entry in entries:
        var, layout = var_of(entry), entry.layout
        position = made.get(id(var), -1)
        kind = (layout.processes > 1, layout.summed, entry.earlier is not None)
        key = (layout.seen_dtype, layout.dtype, layout.device, *kind)
        if key in sizes and positions[key] != position and sizes[key] >= bucket_bytes:
            close(key)
        open_buckets.setdefault(key, []).append(entry)
        sizes[key] = sizes.get(key, 0) + tensor_bytes(var.value)
        positions[key] = position
    for key in sorted(open_buckets, key=lambda key: positions[key]):
        close(key)
    buckets.sort(key=lambda bucket: bucket[0])
    return buckets
