"""Step time and memory of a plan.

Input: a job, a mesh, a device, a plan, and the segments of one rank's micro-batch.  Output: a `Prediction`.

Time.  A segment takes its kernels and the sums of tensor parallelism, which nothing hides.  Gathers begin one segment
ahead, and gradients are reduced beside the next segment: a segment takes the longer of its computation and the
communication beside it, which also takes multiprocessors away.  A pipeline adds its bubble, a step its optimiser.

Memory.  State of the optimiser, parameters and gradients as the plan keeps them, what micro-batches in flight have
saved, the largest need of a segment above that, and the collectives' buffers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from thunder.planning.collectives import all_reduce_seconds, gather_seconds, send_seconds
from thunder.planning.devices import Device
from thunder.planning.kernel_time import Attention, Kind
from thunder.planning.plan import BYTES, Job, Mesh, Plan
from thunder.planning.segments import Pass, Segment, Segments

_DDP_BUCKET = 25e6  # bytes of the last bucket, whose sum nothing hides
_INTERLEAVED_CHUNKS = 2
_REDUCTIONS_PUT_OFF = 2  # whole gradients of so many segments exist (docs/distributed.md)


@dataclass(frozen=True)
class Parts:
    """Seconds of a step by what they are spent on."""

    products: float = 0.0
    attention: float = 0.0
    traffic: float = 0.0
    recomputation: float = 0.0
    tensor_parallel: float = 0.0
    data_parallel: float = 0.0
    bubble: float = 0.0
    optimiser: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        return sum(vars(self).values())

    def largest(self) -> str:
        """What takes longest, in words."""
        name = max(vars(self), key=lambda part: vars(self)[part])
        return _WORDS[name]


_WORDS = {
    "products": "matrix products",
    "attention": "attention",
    "traffic": "memory traffic",
    "recomputation": "recomputation",
    "tensor_parallel": "sums of tensor parallelism",
    "data_parallel": "gathers and reductions",
    "bubble": "pipeline bubble",
    "optimiser": "optimiser",
    "host": "host",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest rank."""

    state: float
    parameters: float
    gradients: float
    saved: float
    working: float
    buffers: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Prediction:
    """What a plan is predicted to take.

    Attributes:
        parts: seconds of a step; the ranks of the slowest stage of the pipeline.
        memory: of the fullest rank.
        fits: whether the device has so much.
        tokens_per_second: of one GPU.
        utilisation: operations that the model needs over what the GPUs' data sheet allows (MFU).
    """

    plan: Plan
    parts: Parts
    memory: Memory
    fits: bool
    tokens_per_second: float
    utilisation: float

    @property
    def seconds(self) -> float:
        return self.parts.total


def predict(job: Job, mesh: Mesh, device: Device, plan: Plan, segments: Segments) -> Prediction:
    """Predicts a step; `segments` are those of the plan's micro-batch and tensor parallelism."""
    micro_batches = plan.micro_batches(job)
    stages = stages_of(segments, plan.pipeline, device)
    timer = _Timer(job, mesh, device, plan, micro_batches)
    parts = max((timer.step(stage) for stage in stages), key=lambda found: found.total)
    memories = [
        memory_of_stage(job, device, plan, micro_batches, stage, number, segments)
        for number, stage in enumerate(stages)
    ]
    memory = max(memories, key=lambda found: found.total)
    operations = sum(_operations(segment) for segment in segments.in_order())
    needed = operations * plan.tensor * plan.data * micro_batches
    return Prediction(
        plan,
        parts,
        memory,
        memory.total <= device.memory * device.usable_memory,
        job.tokens / parts.total / mesh.size,
        needed / (parts.total * mesh.size * device.peak),
    )


@functools.lru_cache(maxsize=1024)
def seconds_by_kind(half: Pass, device: Device) -> dict[Kind, float]:
    """Seconds of one direction of a segment on an otherwise idle machine, by kind of kernel."""
    found: dict[Kind, float] = {"products": 0.0, "attention": 0.0, "traffic": 0.0}
    for kernel in half.kernels:
        found[kernel.kind] += kernel.seconds(device)
    return found


def seconds_of(half: Pass, device: Device) -> float:
    """The sum of `seconds_by_kind`."""
    return sum(seconds_by_kind(half, device).values())


def stages_of(segments: Segments, count: int, device: Device) -> list[list[Segment]]:
    """The segments of each stage of a pipeline: layers go where the least is, so that stages take equally long."""
    if count == 1:
        return [segments.in_order()]

    def weight(segment: Segment) -> float:
        return seconds_of(segment.forward, device) + seconds_of(segment.backward, device)

    times = [0.0] * count
    times[0] += weight(segments.head)
    times[-1] += weight(segments.tail)
    layers = [0] * count
    of_layer = weight(segments.layer)
    for _ in range(segments.layers):
        least = min(range(count), key=lambda number: (times[number], number))
        times[least] += of_layer
        layers[least] += 1
    stages = [[segments.layer] * number for number in layers]
    stages[0].insert(0, segments.head)
    stages[-1].append(segments.tail)
    return stages


@functools.lru_cache(maxsize=1024)
def _operations(segment: Segment) -> int:
    return sum(kernel.operations for half in (segment.forward, segment.backward) for kernel in half.kernels)


@functools.lru_cache(maxsize=1024)
def _is_layer(segment: Segment) -> bool:
    """Layers have attention; head and tail do not."""
    return any(isinstance(kernel, Attention) for kernel in segment.forward.kernels)


class _Timer:
    """Seconds of a stage of the pipeline."""

    def __init__(self, job: Job, mesh: Mesh, device: Device, plan: Plan, micro_batches: int) -> None:
        self.job, self.mesh, self.device, self.plan = job, mesh, device, plan
        self.micro_batches = micro_batches
        self.bytes = BYTES[job.precision]
        self.shards, self.copies = plan.shard_group(mesh), plan.copy_group(mesh)
        self.tensor = plan.tensor_group(mesh)
        self.activation = 2.0 * plan.micro_batch * job.sequence * job.model.hidden
        self._sum = all_reduce_seconds(device, self.tensor, self.activation)
        self._known: dict[int, tuple[float, float, float, float]] = {}

    def step(self, stage: Sequence[Segment]) -> Parts:
        """A whole step of the ranks of one stage."""
        count, plan = self.micro_batches, self.plan
        kinds: dict[Kind, float] = {"products": 0.0, "attention": 0.0, "traffic": 0.0}
        again = sums = 0.0
        for segment in stage:
            for half in (segment.forward, segment.backward):
                for kind, seconds in seconds_by_kind(half, self.device).items():
                    kinds[kind] += seconds
            again += self._recomputed(segment)
            sums += self._sums(segment)
        computed = sum(kinds.values()) + again + sums
        usual = self._exposed(stage, reduces=plan.stage == 3)
        last = self._exposed(stage, reduces=True)
        bubble = self._bubble(stage, computed + usual)
        parameters = sum(segment.parameters for segment in stage)
        return Parts(
            **{kind: seconds * count for kind, seconds in kinds.items()},
            recomputation=again * count,
            tensor_parallel=sums * count,
            data_parallel=usual * (count - 1) + last,
            bubble=bubble,
            optimiser=parameters / plan.shard * self.bytes.updated / self.device.memory_rate,
            host=self.device.step_seconds,
        )

    def _recomputed(self, segment: Segment) -> float:
        """Layers are computed again; head and tail are not checkpointed."""
        if not self.plan.checkpointing or not _is_layer(segment):
            return 0.0
        return seconds_of(segment.forward, self.device) + 2 * self._sum

    def _sums(self, segment: Segment) -> float:
        """Tensor parallelism: after attention and after the gated layers, both ways; once for embedding and head."""
        if _is_layer(segment):
            return 4 * self._sum
        return self._sum if segment.forward.kernels else 0.0

    def _exposed(self, stage: Sequence[Segment], *, reduces: bool) -> float:
        """Seconds that gathers and reductions add to a micro-batch's forward and backward."""
        plan = self.plan
        if plan.data == 1:
            return 0.0
        costs = [self._costs(segment) for segment in stage]
        if plan.stage == 0:
            return self._exposed_ddp(stage, costs) if reduces else 0.0
        gathers = [cost[2] for cost in costs]
        reductions = [cost[3] if reduces else 0.0 for cost in costs]
        added = gathers[0]
        for number, (forward, _, _, _) in enumerate(costs):
            beside = gathers[number + 1] if number + 1 < len(costs) else 0.0
            added += self._beside(forward, beside)
        again = gathers if plan.stage == 3 else [0.0] * len(costs)
        if plan.stage == 3:
            added += again[-1]
        for number in reversed(range(len(costs))):
            beside = again[number - 1] if number else 0.0
            beside += reductions[number + 1] if number + 1 < len(costs) else 0.0
            added += self._beside(costs[number][1], beside)
        return added + reductions[0]

    def _exposed_ddp(self, stage: Sequence[Segment], costs: Sequence[tuple[float, float, float, float]]) -> float:
        """All gradients' sums beside backward, but for the last bucket."""
        whole = sum(segment.parameters for segment in stage) * self.bytes.reduced
        bucket = min(_DDP_BUCKET, whole)
        beside = all_reduce_seconds(self.device, self.copies, whole - bucket)
        backward = sum(cost[1] for cost in costs)
        return self._beside(backward, beside) + all_reduce_seconds(self.device, self.copies, bucket)

    def _beside(self, computing: float, communicating: float) -> float:
        """Seconds that communication adds to a computation that it runs beside."""
        slowed = computing + self.device.collective_share * min(computing, communicating)
        return max(slowed, communicating) - computing

    def _costs(self, segment: Segment) -> tuple[float, float, float, float]:
        """Forward, backward, gather and reduction of a segment."""
        known = self._known.get(id(segment))
        if known is None:
            sums = self._sums(segment)
            forward = seconds_of(segment.forward, self.device) + sums / 2
            backward = seconds_of(segment.backward, self.device) + sums / 2 + self._recomputed(segment)
            gather = gather_seconds(self.device, self.shards, segment.parameters * self.bytes.gathered)
            reduction = gather_seconds(self.device, self.shards, segment.parameters * self.bytes.reduced)
            part = segment.parameters * self.bytes.reduced / self.plan.shard
            reduction += all_reduce_seconds(self.device, self.copies, part)
            known = self._known[id(segment)] = (forward, backward, gather, reduction)
        return known

    def _bubble(self, stage: Sequence[Segment], micro_batch_seconds: float) -> float:
        """What the other stages' filling and emptying of the pipeline costs."""
        stages = self.plan.pipeline
        if stages == 1:
            return 0.0
        within = self.plan.stages_within_node(self.mesh)
        sent = 2 * (stages - 1) * send_seconds(self.device, self.activation / self.plan.tensor, within_node=within)
        idle = (stages - 1) * micro_batch_seconds
        if self.job.schedule == "interleaved":
            return idle / _INTERLEAVED_CHUNKS + _INTERLEAVED_CHUNKS * sent
        if self.job.schedule == "zero-bubble":
            # ZB-H1: the gradients of weights, half of backward, fill what 1F1B leaves idle.
            backward = sum(self._costs(segment)[1] for segment in stage)
            return (stages - 1) * max(0.0, micro_batch_seconds - backward) + sent
        return idle + sent


def memory_of_stage(
    job: Job, device: Device, plan: Plan, micro_batches: int, stage: Sequence[Segment], number: int, whole: Segments
) -> Memory:
    """Bytes on a rank of stage `number` of the pipeline."""
    each = BYTES[job.precision]
    elements = sum(segment.parameters for segment in stage) if plan.pipeline > 1 else whole.parameters
    largest = max(segment.parameters for segment in stage)
    keeps_whole_gradients = plan.stage < 3 and (plan.shard == 1 or micro_batches > 1)
    gradients = elements * each.gradient / plan.shard
    if plan.shard > 1 and keeps_whole_gradients:
        gradients += elements * each.reduced
    parameters = buffers = 0.0
    if plan.shard == 1:
        parameters = elements * each.compute
        buffers = 2 * _DDP_BUCKET
    elif plan.stage == 2:
        parameters = elements * each.gathered
        buffers = _REDUCTIONS_PUT_OFF * largest * each.reduced
    else:
        buffers = 2 * largest * each.gathered + _REDUCTIONS_PUT_OFF * largest * each.reduced
    saved, working = _activations(plan, stage)
    in_flight = _micro_batches_in_flight(job, plan, micro_batches, number)
    return Memory(
        state=elements * each.state / plan.shard,
        parameters=parameters,
        gradients=gradients,
        saved=saved * in_flight,
        working=working - saved + device.workspace,
        buffers=buffers,
    )


def _micro_batches_in_flight(job: Job, plan: Plan, micro_batches: int, number: int) -> int:
    """How many micro-batches' activations stage `number` holds."""
    if plan.pipeline == 1:
        return 1
    if job.schedule == "gpipe":
        return micro_batches
    waiting = plan.pipeline - number
    if job.schedule == "interleaved":  # chunks are smaller and more of them wait
        waiting = math.ceil(waiting * (1 + 1 / _INTERLEAVED_CHUNKS))
    return min(waiting, micro_batches)


def _activations(plan: Plan, stage: Sequence[Segment]) -> tuple[float, float]:
    """Bytes that a micro-batch has saved after its forward, and the most that it needs at any time."""
    saved = most = 0.0
    kept = []
    for segment in stage:
        again = plan.checkpointing and _is_layer(segment)
        most = max(most, saved + segment.forward.peak)
        keeps = min(segment.output or segment.saved, segment.saved) if again else segment.saved
        saved += keeps + segment.results
        kept.append((again, keeps))
    after = saved
    most = max(most, saved)
    for segment, (again, keeps) in zip(reversed(stage), reversed(kept)):
        need = segment.backward.peak
        if again:
            need = max(segment.forward.peak, segment.saved + segment.backward.peak)
        most = max(most, saved + need)
        saved -= keeps
    return after, most

