"""Finds the best plan of a job on a mesh.

Input: a job, a mesh, a device, what is fixed.  Output: predictions, best first; those that fit before those that do
not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from thunder.errors import PlanningError
from thunder.planning.devices import Device
from thunder.planning.models import trace_model
from thunder.planning.plan import Job, Mesh, Plan, divisors
from thunder.planning.predict import Prediction, predict
from thunder.planning.segments import Segments

_MICRO_BATCHES = (1, 2, 4, 8)
_LARGEST_PIPELINE = 32


@dataclass(frozen=True)
class Fixed:
    """What is given instead of searched for; None where anything goes."""

    tensor: int | None = None
    pipeline: int | None = None
    stage: int | None = None
    micro_batch: int | None = None
    checkpointing: bool | None = None


Tracer = Callable[[int, int], Segments]
"""Segments for (sequences at a time, ranks of tensor parallelism)."""


class ModelTracer:
    """Traces a job's model once for each micro-batch and degree of tensor parallelism."""

    def __init__(self, job: Job, note: Callable[[str], None] = lambda text: None) -> None:
        self._job, self._note = job, note
        self._known: dict[tuple[int, int], Segments] = {}

    def __call__(self, micro_batch: int, tensor: int) -> Segments:
        key = (micro_batch, tensor)
        if key not in self._known:
            self._note(f"tracing {self._job.model.name}: {micro_batch}x{self._job.sequence} tokens, tp {tensor}")
            self._known[key] = trace_model(
                self._job.model, sequence=self._job.sequence, micro_batch=micro_batch, tensor_parallel=tensor
            )
        return self._known[key]


def search(job: Job, mesh: Mesh, device: Device, fixed: Fixed, tracer: Tracer) -> list[Prediction]:
    """All plans that divide the job, best first: those that fit, by their time, then the others, by their memory."""
    _check(job, mesh, fixed)
    found: list[Prediction] = []
    for tensor in _tensor_degrees(job, mesh, fixed):
        best = math.inf
        for micro_batch in [fixed.micro_batch] if fixed.micro_batch else _MICRO_BATCHES:
            plans = list(_plans(job, mesh, fixed, tensor, micro_batch))
            if not plans:
                continue
            segments = tracer(micro_batch, tensor)
            predictions = [predict(job, mesh, device, plan, segments) for plan in plans]
            found += predictions
            before, best = best, min((p.seconds for p in predictions if p.fits), default=math.inf)
            if best >= before:
                break  # more at a time needs more memory, and gains nothing
    if not found:
        raise PlanningError(
            f"no plan divides {job.batch} sequences and {job.model.layers} layers among {mesh} GPUs",
            remedy="change --batch, the mesh, or what is fixed of the plan",
        )
    return sorted(found, key=lambda p: (not p.fits, p.seconds if p.fits else p.memory.total))


def _check(job: Job, mesh: Mesh, fixed: Fixed) -> None:
    """Errors for what can be fitted to no plan, which say what does not divide."""
    tensor, pipeline = fixed.tensor or 1, fixed.pipeline or 1
    if mesh.size % (tensor * pipeline):
        raise PlanningError(f"{mesh} GPUs do not divide by tp {tensor} x pp {pipeline}")
    if fixed.tensor is not None:
        if mesh.per_node % fixed.tensor:
            raise PlanningError(
                f"tp {fixed.tensor} does not divide a node of {mesh.per_node}", remedy="its sums stay within a node"
            )
        reason = job.model.tensor_parallel_reason(fixed.tensor)
        if reason is not None:
            raise PlanningError(f"{job.model.name} cannot be divided by tp {fixed.tensor}: {reason}")
    if pipeline > job.model.layers:
        raise PlanningError(f"{job.model.name} has {job.model.layers} layers, fewer than pp {pipeline}")


def _tensor_degrees(job: Job, mesh: Mesh, fixed: Fixed) -> Sequence[int]:
    if fixed.tensor is not None:
        return [fixed.tensor]
    return [n for n in divisors(mesh.per_node) if job.model.tensor_parallel_reason(n) is None]


def _plans(job: Job, mesh: Mesh, fixed: Fixed, tensor: int, micro_batch: int) -> Iterator[Plan]:
    """The plans with this tensor parallelism and micro-batch whose numbers divide."""
    pipelines = [fixed.pipeline] if fixed.pipeline else divisors(mesh.size // tensor)
    for pipeline in pipelines:
        if pipeline > min(job.model.layers, _LARGEST_PIPELINE if not fixed.pipeline else pipeline):
            continue
        data = mesh.size // tensor // pipeline
        if job.batch % (data * micro_batch):
            continue
        for stage, shard in _shards(mesh, tensor, data):
            if fixed.stage is not None and stage != fixed.stage:
                continue
            for checkpointing in [False, True] if fixed.checkpointing is None else [fixed.checkpointing]:
                yield Plan(data // shard, shard, stage, tensor, pipeline, micro_batch, checkpointing)


def _shards(mesh: Mesh, tensor: int, data: int) -> Iterator[tuple[int, int]]:
    """(stage, ranks of one copy): whole copies, one copy over all ranks, one in each node."""
    yield 0, 1
    in_node = mesh.per_node // tensor
    sizes = {data} | ({in_node} if data % in_node == 0 else set())
    for shard in sorted(sizes - {1}):
        yield 2, shard
        yield 3, shard


def scaling_meshes(largest: Mesh) -> list[Mesh]:
    """One node, two, four, ... up to a mesh's size."""
    counts = [2**power for power in range(largest.nodes.bit_length()) if 2**power < largest.nodes]
    return [Mesh(nodes, largest.per_node) for nodes in [*counts, largest.nodes]]
