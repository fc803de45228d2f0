"""How long a collective takes.

Input: bytes, the ranks of the group and how they lie in the machine.  Output: seconds.  Rings, as NCCL builds them:
each GPU of a node that takes part has its own way out of the node, so that a group with several ranks in each node
sends through as many NICs.  Sums of few bytes over many nodes go along trees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thunder.planning.devices import Device


@dataclass(frozen=True)
class Group:
    """Ranks that take part: `size` of them, of which `per_node` lie in one node."""

    size: int
    per_node: int

    @staticmethod
    def strided(size: int, stride: int, node_size: int) -> Group:
        """Every `stride`-th rank; ranks are counted node by node."""
        return Group(size, max(1, min(size, node_size // stride)) if stride < node_size else 1)

    @property
    def nodes(self) -> int:
        return math.ceil(self.size / self.per_node)


def bandwidth(device: Device, group: Group) -> float:
    """Bytes a second that pass each place of the ring."""
    if group.nodes == 1:
        return device.local.bytes_per_second
    # The NICs of all of the group's ranks in a node carry what passes from node to node.
    outside = device.remote.bytes_per_second * group.per_node
    return min(outside, device.local.bytes_per_second) if group.per_node > 1 else outside


def ring_latency(device: Device, group: Group) -> float:
    """Once around the ring."""
    between = group.nodes if group.nodes > 1 else 0
    return (group.size - 1 - max(0, between - 1)) * device.local.latency + max(0, between - 1) * device.remote.latency


def gather_seconds(device: Device, group: Group, whole: float) -> float:
    """All-gather to, or reduce-scatter of, `whole` bytes."""
    if group.size == 1 or not whole:
        return 0.0
    moved = whole * (group.size - 1) / group.size
    return moved / bandwidth(device, group) + ring_latency(device, group)


def all_reduce_seconds(device: Device, group: Group, whole: float) -> float:
    """The sum of `whole` bytes on every rank: a ring, or a tree over nodes where that is faster."""
    if group.size == 1 or not whole:
        return 0.0
    moved = 2 * whole * (group.size - 1) / group.size
    ring = moved / bandwidth(device, group) + 2 * ring_latency(device, group)
    inside = 2 * (group.per_node - 1) * device.local.latency
    levels = 2 * math.ceil(math.log2(group.nodes)) if group.nodes > 1 else 0
    tree = 2 * whole / bandwidth(device, group) + inside + levels * device.remote.latency
    return min(ring, tree)


def send_seconds(device: Device, count: float, *, within_node: bool) -> float:
    """`count` bytes from one rank to another."""
    network = device.local if within_node else device.remote
    return count / network.bytes_per_second + network.latency
