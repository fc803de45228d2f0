"""Regions that begin and end collectives on buckets of parameters or gradients.

A bucket travels as one flat tensor.  The region that begins a collective packs it; the one that ends it waits and
unpacks.  What stands between the two calls in a trace is what the communication overlaps with.

Inputs: the layouts of a bucket's members and a group.  Output: regions, equal ones once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from thunder.distributed.layout import Layout
from thunder.distributed.region_builder import RegionBuilder
from thunder.lower.operators import aten
from thunder.trace import Namer, Region, Var

functional = torch.ops._c10d_functional


class Group(NamedTuple):
    """A process group as traces name it.

    Attributes:
        name: PyTorch's own.
        size: how many processes.
        rank: this one's number among them.
        ranks: of the processes in the default group.
    """

    name: str
    size: int
    rank: int
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stages:
    """The regions of one collective, in the order in which they are called.

    The first takes the bucket's members, each later one the result of the one before, the last gives the members of
    the result.
    """

    regions: tuple[Region, ...]

    def run(self, members: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The whole collective at once, on real tensors."""
        values = list(members)
        for region in self.regions:
            values = list(region(*values))
        return values


class CollectiveRegions:
    """Makes the regions of one program's collectives.

    Args:
        shard: the processes that parameters are divided among, or None.
        replicate: the processes that hold the same and see other batches, or None.
        tensor: the processes of tensor parallelism, or None: they see the same batch, and gradients of parameters that
            are `summed` are added up over them.
        reduce_dtype: dtype in which gradients are added up, or None for their own.
    """

    def __init__(
        self,
        shard: Group | None,
        replicate: Group | None,
        tensor: Group | None,
        reduce_dtype: torch.dtype | None,
    ) -> None:
        self.shard, self.replicate, self.tensor = shard, replicate, tensor
        self.reduce_dtype = reduce_dtype
        self._known: dict[Hashable, Stages] = {}
        self._namer = Namer()

    def gather(self, members: Sequence[Layout], fake_mode: Any, name: str) -> Stages:
        """Regions that make whole parameters of parts, in their seen dtype."""
        return self._once(("gather", tuple(members)), lambda: self._make_gather(members, fake_mode, name))

    def reduce(self, members: Sequence[Layout], fake_mode: Any, name: str, accumulated: bool) -> Stages:
        """Regions that make parts of averaged gradients of whole gradients of this process.

        `accumulated`: they take, after the gradients, as many earlier ones to be added to them.
        """
        key = ("reduce", accumulated, tuple(members))
        return self._once(key, lambda: self._make_reduce(members, fake_mode, name, accumulated))

    def _once(self, key: Hashable, make: Callable[[], Stages]) -> Stages:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _builder(self, name: str, fake_mode: Any) -> RegionBuilder:
        return RegionBuilder(self._namer.fresh(name, numbered=False), fake_mode)

    def _make_gather(self, members: Sequence[Layout], fake_mode: Any, name: str) -> Stages:
        if members[0].processes == 1:
            return self._make_cast(members, fake_mode, name)
        group = self.shard
        assert group is not None
        dtype, device = members[0].seen_dtype, members[0].device
        begin = self._builder(f"gather_{name}", fake_mode)
        flat = []
        for layout in members:
            part = begin.input("part", layout.local_shape, layout.dtype, layout.kept_on)
            part = _as_seen(begin, part, layout)
            flat.append(_padded_flat(begin, _rows_first(begin, part, layout), layout.padded))
        bucket = flat[0] if len(flat) == 1 else begin.call(aten.cat.default, flat)
        gathered = begin.call(functional.all_gather_into_tensor.default, bucket, group.size, group.name)
        total = sum(layout.padded for layout in members)
        end = self._builder(f"end_{begin.name}", fake_mode)
        arrived = end.input("gathered", (group.size * total,), dtype, device)
        arrived = end.call(functional.wait_tensor.default, arrived)
        table = arrived if len(members) == 1 else end.call(aten.view.default, arrived, [group.size, total])
        wholes, offset = [], 0
        for layout in members:
            if len(members) == 1:
                columns = table
            else:
                columns = end.call(aten.slice.Tensor, table, 1, offset, offset + layout.padded)
                columns = end.call(aten.clone.default, columns, memory_format=torch.contiguous_format)
            rows = group.size * layout.chunk
            whole = end.call(aten.view.default, columns, [rows, *layout.row_shape])
            if rows != layout.shape[layout.dimension]:
                whole = end.call(aten.slice.Tensor, whole, 0, 0, layout.shape[layout.dimension])
            wholes.append(_rows_back(end, whole, layout))
            offset += layout.padded
        return Stages((begin.finish([gathered]), end.finish(wholes)))

    def _make_cast(self, members: Sequence[Layout], fake_mode: Any, name: str) -> Stages:
        """What stands for a gather where every process has the whole, in another dtype or on another device."""
        cast = self._builder(f"cast_{name}", fake_mode)
        parts = [cast.input("parameter", layout.shape, layout.dtype, layout.kept_on) for layout in members]
        return Stages((cast.finish([_as_seen(cast, part, layout) for part, layout in zip(parts, members)]),))

    def _make_reduce(self, members: Sequence[Layout], fake_mode: Any, name: str, accumulated: bool) -> Stages:
        """Sums over the shard group, each process keeping its part, then over the other groups."""
        device = members[0].device
        dtype = self.reduce_dtype or members[0].seen_dtype
        divided = members[0].processes > 1
        groups = [group for group in (self.shard, self.replicate) if group is not None and group.size > 1]
        processes = math.prod(group.size for group in groups)
        if members[0].summed and self.tensor is not None and self.tensor.size > 1:
            groups.append(self.tensor)
        begin = self._builder(f"reduce_{name}", fake_mode)
        gradients = [begin.input("gradient", layout.shape, layout.seen_dtype, device) for layout in members]
        if accumulated:
            earlier = [begin.input("accumulated", layout.shape, layout.seen_dtype, device) for layout in members]
            gradients = [begin.call(aten.add.Tensor, new, old) for new, old in zip(gradients, earlier)]
        flat = [self._row_of_bucket(begin, var, layout, dtype) for var, layout in zip(gradients, members)]
        axis = 1 if divided else 0
        bucket = flat[0] if len(flat) == 1 else begin.call(aten.cat.default, flat, axis)
        if divided:
            bucket = begin.call(aten.reshape.default, bucket, [-1])
        # The quotient is taken first, so that sums in a narrow dtype stay within its range; a bucket of one gradient
        # may be the gradient itself, which must not be written to.
        bucket = begin.call(aten.div.Scalar, bucket, processes)
        stages, builder, result = [], begin, bucket
        for number, group in enumerate(groups):
            if number:
                shape, kind = tuple(result.value.shape), result.value.dtype
                stages.append(builder.finish([result]))
                builder = self._builder(f"go_on_{begin.name}", fake_mode)
                arrived = builder.input("reduced", shape, kind, device)
                result = builder.call(functional.wait_tensor.default, arrived)
            if group is self.shard and divided:
                result = builder.call(functional.reduce_scatter_tensor.default, result, "sum", group.size, group.name)
            else:
                result = builder.call(functional.all_reduce_.default, result, "sum", group.name)
        shape = tuple(result.value.shape)
        stages.append(builder.finish([result]))
        end = self._builder(f"end_{begin.name}", fake_mode)
        arrived = end.input("reduced", shape, dtype, device)
        arrived = end.call(functional.wait_tensor.default, arrived) if groups else arrived
        parts, offset = [], 0
        for layout in members:
            size = layout.padded if divided else _count(layout.shape)
            part = arrived if len(members) == 1 else end.call(aten.slice.Tensor, arrived, 0, offset, offset + size)
            offset += size
            count = _count(layout.local_shape)
            if count != size:
                part = end.call(aten.slice.Tensor, part, 0, 0, count)
            if divided:
                part = end.call(aten.view.default, part, [len(layout.rows), *layout.row_shape])
                part = _rows_back(end, part, layout)
            else:
                part = end.call(aten.view.default, part, list(layout.shape))
            if dtype is not layout.dtype:
                part = end.call(aten._to_copy.default, part, dtype=layout.dtype)
            if layout.kept_on != device:
                part = end.call(aten._to_copy.default, part, device=layout.kept_on)  # waits for the copy
            parts.append(part)
        return Stages((*stages, end.finish(parts)))

    def _row_of_bucket(self, builder: RegionBuilder, gradient: Var, layout: Layout, dtype: torch.dtype) -> Var:
        """A gradient as columns of the bucket [processes, elements], or as a flat piece of it."""
        if gradient.value.dtype is not dtype:
            gradient = builder.call(aten._to_copy.default, gradient, dtype=dtype)
        if layout.processes == 1:
            return builder.call(aten.reshape.default, gradient, [-1])
        flat = _padded_flat(builder, _rows_first(builder, gradient, layout), layout.padded * layout.processes)
        return builder.call(aten.view.default, flat, [layout.processes, layout.padded])


def _as_seen(builder: RegionBuilder, part: Var, layout: Layout) -> Var:
    """A part in the dtype and on the device that programs compute with."""
    if layout.kept_on != layout.device:
        # From pinned memory this does not wait; what comes after on the same stream does.
        part = builder.call(aten._to_copy.default, part, device=layout.device, non_blocking=True)
    if layout.dtype is not layout.seen_dtype:
        part = builder.call(aten._to_copy.default, part, dtype=layout.seen_dtype)
    return part


def _rows_first(builder: RegionBuilder, var: Var, layout: Layout) -> Var:
    """The tensor with the divided dimension as its first."""
    if not layout.dimension:
        return var
    order = [number for number in range(len(layout.shape)) if number != layout.dimension]
    return builder.call(aten.permute.default, var, [layout.dimension, *order])


def _rows_back(builder: RegionBuilder, var: Var, layout: Layout) -> Var:
    """What `_rows_first` made a tensor of, as it was, contiguous."""
    if not layout.dimension:
        return var
    order = list(range(1, len(layout.shape)))
    order.insert(layout.dimension, 0)
    moved = builder.call(aten.permute.default, var, order)
    return builder.call(aten.clone.default, moved, memory_format=torch.contiguous_format)


def _padded_flat(builder: RegionBuilder, var: Var, count: int) -> Var:
    """The elements of `var`, followed by zeros up to `count`."""
    flat = builder.call(aten.reshape.default, var, [-1])
    missing = count - var.value.numel()
    return builder.call(aten.constant_pad_nd.default, flat, [0, missing]) if missing else flat


def _count(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())
