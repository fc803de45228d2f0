"""Times pieces of work on a GPU: shared by the scripts of this folder."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

CACHES = 192 << 20
"""Bytes of inputs that no cache holds."""


def median_of(run: Callable[[], Any], replays: int) -> float:
    """Median microseconds of a piece of work."""
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def timed(calls: list[Callable[[], Any]], replays: int = 15) -> float:
    """Microseconds of one call, from replays of a CUDA graph of all of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return median_of(graph.replay, replays) / len(calls)


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a large copy."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    for _ in range(10):
        target.copy_(source)
    return 2 * source.numel() * 4 / (median_of(lambda: target.copy_(source), 10) * 1e-6)


def copies_beyond_caches(nbytes: int) -> int:
    """Sets of inputs that together no cache holds."""
    return max(2, min(64, CACHES // nbytes + 1))
