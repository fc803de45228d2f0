"""Averages over processes whose programs use different parameters.

Where processes take different branches, each has gradients for some of the parameters only.  Here every parameter of
the model has its place in a bucket, whether this process's program uses it or not, so that all processes make the
same collectives; a flag for each tells whether any process used it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thunder.distributed.collectives import Group, functional
from thunder.distributed.region_builder import RegionBuilder
from thunder.lower.operators import aten
from thunder.trace import Namer, Op, Trace, Var, trace_pass


@dataclass
class Place:
    """The place of one parameter.

    Attributes:
        shape, dtype, device: of the parameter.
        output: number of the trace's output that is its gradient, or None where this process has none.
        earlier: a gradient of this process that is added before, or None.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    output: int | None = None
    earlier: Var | None = None

    @property
    def size(self) -> int:
        return int(torch.Size(self.shape).numel())


@trace_pass
def average_all(
    trace: Trace, places: Sequence[Place], group: Group, fake_mode: Any, *, bucket_bytes: int, dtype: torch.dtype | None
) -> Trace:
    """Averages the gradients of all places.

    The trace's output is followed by one tensor for each bucket, flags (above zero: some process used the parameter),
    and by one gradient for each place that has no output, in order.

    Args:
        trace: a backward trace.
        places: of all parameters, in an order that is the same on every process.
        group: the processes.
        fake_mode: mode of the fake tensors of the trace.
        bucket_bytes: size of a bucket.
        dtype: in which sums are taken; None for that of the parameters.
    """
    made = {id(var): position for position, op in enumerate(trace.ops) for var in op.outputs()}
    namer = Namer({var.name for var in trace.variables()})
    after: dict[int, list[Op]] = {}
    ends: list[Op] = []
    output = list(trace.output)
    flags: list[Var] = []
    absent: list[Var] = []
    position = -1
    for number, members in enumerate(_buckets(places, bucket_bytes)):
        present = [place for place in members if _gradient(trace, place) is not None]
        # Buckets begin in their order: it is the one thing that all processes have in common.
        position = max([position, *(made.get(id(_gradient(trace, place)), -1) for place in present)])
        begin, end = _bucket_ops(trace, number, members, group, fake_mode, dtype, namer)
        after.setdefault(position, []).append(begin)
        ends.append(end)
        flags.append(end.result[0])
        for place, result in zip(members, end.result[1:]):
            if place.output is None or output[place.output] is None:
                absent.append(result)
            else:
                output[place.output] = result
    ops = list(after.get(-1, []))
    for number, op in enumerate(trace.ops):
        ops.append(op)
        ops += after.get(number, [])
    return trace.replace(ops=[*ops, *ends], output=(*output, *flags, *absent))


def absent_places(
    trace_output: Sequence[Any], places: Sequence[Place], bucket_bytes: int
) -> list[list[tuple[int, bool]]]:
    """For each bucket, (number of the place, whether this process has no gradient for it)."""
    numbers = {id(place): number for number, place in enumerate(places)}
    return [
        [(numbers[id(place)], place.output is None or trace_output[place.output] is None) for place in members]
        for members in _buckets(places, bucket_bytes)
    ]


def _gradient(trace: Trace, place: Place) -> Any:
    return None if place.output is None else trace.output[place.output]


def _buckets(places: Sequence[Place], bucket_bytes: int) -> list[list[Place]]:
    """Places of one dtype and device together, up to the size of a bucket."""
    buckets: list[list[Place]] = []
    size = 0
    for place in places:
        last = buckets[-1][-1] if buckets else None
        alike = last is not None and (last.dtype, last.device) == (place.dtype, place.device)
        if not alike or size >= bucket_bytes:
            buckets.append([])
            size = 0
        buckets[-1].append(place)
        size += place.size * place.dtype.itemsize
    return buckets


def _bucket_ops(
    trace: Trace,
    number: int,
    members: Sequence[Place],
    group: Group,
    fake_mode: Any,
    dtype: torch.dtype | None,
    namer: Namer,
) -> tuple[Op, Op]:
    """(the operation that begins the bucket's average, the one that ends it)."""
    device, kind = members[0].device, dtype or members[0].dtype
    begin = RegionBuilder(f"reduce_bucket_{number}", fake_mode)
    pieces: list[Var] = []
    arguments: list[Var] = []
    for place in members:
        total = None
        for var in (_gradient(trace, place), place.earlier):
            if var is None:
                continue
            arguments.append(var)
            piece = begin.input("gradient", place.shape, place.dtype, device)
            total = piece if total is None else begin.call(aten.add.Tensor, total, piece)
        if total is None:
            pieces.append(begin.call(aten.zeros.default, [place.size], dtype=kind, device=device))
            continue
        if total.value.dtype is not kind:
            total = begin.call(aten._to_copy.default, total, dtype=kind)
        pieces.append(begin.call(aten.reshape.default, total, [-1]))
    for place in members:
        used = _gradient(trace, place) is not None or place.earlier is not None
        pieces.append(begin.call(aten.full.default, [1], 1.0 if used else 0.0, dtype=kind, device=device))
    bucket = begin.call(aten.div.Scalar, begin.call(aten.cat.default, pieces), group.size)
    sent = begin.call(functional.all_reduce_.default, bucket, "sum", group.name)
    end = RegionBuilder(f"end_reduce_bucket_{number}", fake_mode)
    arrived = end.input("reduced", tuple(sent.value.shape), kind, device)
    arrived = end.call(functional.wait_tensor.default, arrived)
    results, offset = [], 0
    for place in members:
        piece = end.call(aten.slice.Tensor, arrived, 0, offset, offset + place.size)
        piece = end.call(aten.view.default, piece, list(place.shape))
        results.append(piece if kind is place.dtype else end.call(aten._to_copy.default, piece, dtype=place.dtype))
        offset += place.size
    flags = end.call(aten.slice.Tensor, arrived, 0, offset, offset + len(members))
    begin_region, end_region = begin.finish([sent]), end.finish([flags, *results])
    travelling = Var(namer.fresh("reducing"), sent.value)
    outputs = tuple(Var(namer.fresh("reduced"), var.value) for var in end_region.trace.output)
    first = Op(begin_region, tuple(arguments), {}, (travelling,))
    return first, Op(end_region, (travelling,), {}, outputs)
