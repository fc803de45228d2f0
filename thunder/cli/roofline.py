"""How fast a step could be: what it has to do, over what the device can do.

Input: a task, and a device.  Output: `Work` (bytes, floating-point operations) and `Ceilings` (bytes and operations a
second).  The bytes are a lower bound: each weight and input read once and each gradient written once a pass;
activations are not counted.  The ceilings are measured with PyTorch's own copy and matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from thunder.cli.workloads import Task, Workload, surroundings

# Passes over the weights: a training step reads them forward and backward and writes as many gradients.
_PASSES = {"inference": 1, "training": 3, "optimisation": 3}


@dataclass(frozen=True)
class Work:
    """What a step has to do at least: bytes of memory traffic, and floating-point operations of matrix products."""

    bytes: int
    operations: int


@dataclass(frozen=True)
class Ceilings:
    """What a device does at most: bytes (read and written) a second, and operations a second in this type."""

    bytes_per_second: float
    operations_per_second: float

    def floor(self, work: Work) -> float:
        """Seconds that the work takes at least."""
        return max(work.bytes / self.bytes_per_second, work.operations / self.operations_per_second)


def count_work(task: Task, workload: Workload, step: Callable[[], Any]) -> Work:
    """Counts one step of the uncompiled model."""
    embeddings = {id(module.weight) for module in task.model.modules() if isinstance(module, torch.nn.Embedding)} - {
        id(module.weight) for module in task.model.modules() if isinstance(module, torch.nn.Linear)
    }
    # Of an embedding only some rows are read; they count for nothing beside the rest.
    weights = sum(_bytes(p) for p in task.model.parameters() if id(p) not in embeddings)
    inputs = sum(_bytes(leaf) for leaf in pytree.tree_leaves((task.args, task.kwargs)) if isinstance(leaf, Tensor))
    if workload.kind == "generation":
        tokens = int(task.generate["max_new_tokens"])
        return Work(weights * tokens + inputs, 0)
    # The other attention kernels have no count where keys and values have fewer heads than queries.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), surroundings(workload.kind):
        step()
    return Work(weights * _PASSES[workload.kind] + inputs, counter.get_total_flops())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def measure_ceilings(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Ceilings:
    """Copies a large tensor and multiplies large matrices; medians of ten."""
    large, width = (2**30, 8192) if device.type != "cpu" else (2**26, 1024)
    source = torch.randint(0, 100, (large,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.randn(width, width, device=device).to(dtype if device.type != "cpu" else torch.float32)
    copied = _seconds(lambda: target.copy_(source), device)
    multiplied = _seconds(lambda: matrix @ matrix, device)
    return Ceilings(2 * large / copied, 2 * width**3 / multiplied)


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    samples = []
    for _ in range(13):
        start = perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        samples.append(perf_counter() - start)
    return median(samples[3:])
