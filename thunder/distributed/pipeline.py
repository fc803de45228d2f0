"""Pipelines: a model's program is cut into stages, which processes run on parts of the batch, one after the other.

Input: a model, a mesh of one dimension, what tensor or data parallelism has made of the model.  Output: a
`Distribution` that makes the model's calls itself: it acquires the program for one microbatch, cuts it
(`stages.py`), compiles the stages of this process and runs them on a schedule of `torch.distributed.pipelining`.

All processes of the pipeline are given the same batch.  A parameter that several stages use (tied embeddings) stays
on each of their processes, and its gradients are added up at the end of a step.  Memory of parameters that no stage of
this process uses is given back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import pipelining
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from thunder import _torch_compat
from thunder.acquire import Program, Seen
from thunder.distributed.data_parallel import DataParallel, DataParallelOptions, Groups
from thunder.distributed.delayed_start import DelayedStart
from thunder.distributed.failures import Agreement, exchange_failure
from thunder.distributed.initialise import Initialise
from thunder.distributed.microbatches import microbatches, put_together
from thunder.distributed.pipeline_options import SCHEDULES, SPLITS_BACKWARD, PipelineOptions
from thunder.distributed.pipeline_stage import LocalStage
from thunder.distributed.stages import Stage, cut_into_stages
from thunder.distributed.training_step import Forward, TrainingStep
from thunder.errors import PipelineError, ThunderError
from thunder.executors import default_executors
from thunder.executors.distribution import Distribution, ProgramDistribution
from thunder.frontend.compiled import CompiledFunction, Entry, Statistics

_ROOT = "model."  # the modules of training_step.py call it so


class Pipeline(Distribution):
    """The pipeline of one model.

    Args:
        model: all of it, on this process's device.
        mesh: the processes, of one dimension.
        inner: what tensor or data parallelism has made of the model, or None.

    Attributes:
        stages: what is known of each stage: (rank, first module, last module, share of the cost), after the first call.
        owners: ranks of the pipeline that use a parameter or buffer, by its id.
    """

    def __init__(
        self, model: torch.nn.Module, mesh: DeviceMesh, inner: DataParallel | None, options: PipelineOptions
    ) -> None:
        self.model = model
        self.mesh = mesh
        self.options = options
        self.inner = inner or DataParallel(model, mesh, Groups(), DataParallelOptions(timeout=options.timeout))
        self.group = mesh.get_group()
        self.size, self.rank = mesh.size(), mesh.get_local_rank()
        self.ranks = dist.get_process_group_ranks(self.group)
        self.agreement = Agreement(self.ranks, options.timeout, mesh.device_type)
        self.begins: list[str] | None = None if options.begins is None else list(options.begins)
        self.stages: list[tuple[int, str, str, float]] = []
        self.owners: dict[int, list[int]] = {}
        self._start: DelayedStart | None = None
        self._functions: dict[str, PipelinedFunction] = {}

    @property
    def is_cut(self) -> bool:
        """Whether it is known which process has which stages."""
        return bool(self.stages)

    def start_without_memory(self, device: torch.device, initialise: Initialise | None) -> None:
        """For a model on the meta device: parameters get memory and values when it is known who has them."""
        self._start = DelayedStart(self.model, device, initialise, self.mesh)

    # What the frontend asks for ---------------------------------------------------------------------------------
    def seen_as(self, tensor: torch.Tensor) -> Seen | None:
        return self.inner.seen_as(tensor)

    def for_program(self, inputs: Sequence[Any]) -> ProgramDistribution:
        raise PipelineError("a pipeline's programs are compiled stage by stage")

    def dispatch_of(self, compiled: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], Any] | None:
        if isinstance(compiled, PipelinedFunction):
            return None
        return lambda args, kwargs: self.forward(compiled, args, kwargs)

    # Calls ------------------------------------------------------------------------------------------------------
    def forward(self, compiled: CompiledFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's output, without gradients, the same on every process."""
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.model.parameters()):
            raise PipelineError(
                "a pipeline computes gradients while its forward passes go on, and this call asks for an output to "
                "differentiate later",
                remedy="model.train_step(batch, target=labels) computes losses and gradients; call the model itself "
                "under torch.no_grad()",
            )
        function = self._function(compiled, "forward")
        results = function.run(microbatches((args, kwargs), self.options.microbatches))
        return put_together(results)

    def train_step(
        self, compiled: CompiledFunction, args: tuple[Any, ...], kwargs: dict[str, Any], targets: tuple[Any, ...]
    ) -> torch.Tensor:
        """Computes gradients of the mean of the microbatches' losses; returns it, the same on every process."""
        function = self._function(compiled, "training step")
        with torch.enable_grad(), self._new_gradients():
            losses = function.run(microbatches((args, kwargs, targets), self.options.microbatches))
        return torch.stack(losses).mean()

    def cut(
        self, compiled: CompiledFunction, args: tuple[Any, ...], kwargs: dict[str, Any], targets: tuple[Any, ...]
    ) -> None:
        """Compiles the training step for such a batch, which settles who has which stages."""
        function = self._function(compiled, "training step")
        with torch.enable_grad():
            function.prepare(microbatches((args, kwargs, targets), self.options.microbatches)[0])

    def _function(self, compiled: CompiledFunction, what: str) -> PipelinedFunction:
        if what not in self._functions:
            trains = what == "training step"
            root = TrainingStep(self.model, self.options.loss) if trains else Forward(self.model)
            self._functions[what] = PipelinedFunction(root, compiled, self, trains=trains)
        return self._functions[what]

    # Gradients --------------------------------------------------------------------------------------------------
    @contextmanager
    def _new_gradients(self) -> Iterator[None]:
        """Within the block gradients begin anew; at its end those from before are added."""
        earlier = [(p, p.grad) for p in self.model.parameters() if p.grad is not None]
        for parameter, _ in earlier:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in earlier:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def add_up_shared_gradients(self) -> None:
        """Adds up gradients of parameters that stages on several processes use."""
        for parameter in self.model.parameters():
            users = self.owners.get(id(parameter), [])
            if len(users) < 2 or self.rank not in users or not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            part = parameter.grad
            part = _torch_compat.local_part(part) if isinstance(part, DTensor) else part
            if not part.numel():
                continue
            found = {rank: torch.empty_like(part) for rank in users if rank != self.rank}
            exchanges = []
            for rank, buffer in found.items():
                peer = self.ranks[rank]
                exchanges.append(dist.P2POp(dist.isend, part, peer, self.group))
                exchanges.append(dist.P2POp(dist.irecv, buffer, peer, self.group))
            for work in dist.batch_isend_irecv(exchanges):
                work.wait()
            found[self.rank] = part.clone()
            part.copy_(torch.stack([found[rank] for rank in users]).sum(0))  # in the same order everywhere

    def counts(self, parameter: torch.Tensor) -> bool:
        """Whether this process counts the parameter in norms over all of them."""
        return self.owners.get(id(parameter), [self.rank])[0] == self.rank

    # Parameters -------------------------------------------------------------------------------------------------
    def settle(self, stages: Sequence[Stage], inputs: Sequence[Any], rank_of: Callable[[int], int]) -> None:
        """Notes which processes use which parameter and gives back the memory of those that this one does not use."""
        if self.is_cut:
            return
        parameters = {id(parameter): parameter for parameter in self.model.parameters()}
        known = parameters.keys() | {id(buffer) for buffer in self.model.buffers()}
        total = sum(stage.cost for stage in stages)
        for number, stage in enumerate(stages):
            self.stages.append((rank_of(number), stage.first_scope, stage.last_scope, stage.cost / total))
            for position in stage.inputs:
                if id(inputs[position]) in known:
                    users = self.owners.setdefault(id(inputs[position]), [])
                    if rank_of(number) not in users:
                        users.append(rank_of(number))
        for parameter in parameters.values():
            if not self.has(parameter):
                _torch_compat.free_memory(_part(parameter))
        if self._start is not None:
            self._start.finish(self.has)
            for parameter in parameters.values():
                users = self.owners.get(id(parameter), [])
                if len(users) > 1 and self.rank in users:
                    self._take_from_first(parameter, users)

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether this process has the values of a parameter or buffer: its stages use it, or none at all does."""
        return self.rank in self.owners.get(id(tensor), [self.rank])

    def _take_from_first(self, parameter: torch.Tensor, users: Sequence[int]) -> None:
        """Gives all users of a parameter the values of the first one."""
        part, first = _part(parameter).detach(), self.ranks[users[0]]
        if self.rank == users[0]:
            for other in users[1:]:
                dist.send(part, self.ranks[other], group=self.group)
        else:
            dist.recv(part, first, group=self.group)

    def whole_part(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter or buffer with its values, also where this process does not have them; every process calls it."""
        users = self.owners.get(id(tensor))
        if users is None:
            return tensor
        part = _part(tensor).detach()
        if self.rank not in users:
            part = torch.empty(part.shape, dtype=part.dtype, device=part.device)
        dist.broadcast(part, self.ranks[users[0]], group=self.group)
        return _torch_compat.dtensor_like(tensor, part) if isinstance(tensor, DTensor) else part


def _part(parameter: torch.Tensor) -> torch.Tensor:
    return _torch_compat.local_part(parameter) if isinstance(parameter, DTensor) else parameter


class _Collected(Exception):
    """The inputs of a further microbatch have been taken down."""


class PipelinedFunction(CompiledFunction):
    """A callable whose programs run as pipelines.

    Args:
        function: takes one microbatch.
        compiled: the model's compiled function: its options hold, its statistics count.
        pipeline: where stages run.
        trains: the function's result is a loss, and gradients are computed.
    """

    def __init__(self, function: torch.nn.Module, compiled: CompiledFunction, pipeline: Pipeline, *, trains: bool):
        self._outer = compiled
        self._pipeline = pipeline
        self._trains = trains
        self._batch: Sequence[tuple[Any, ...]] = ()
        self._active: PipelinedProgram | None = None
        super().__init__(function, compiled.options)
        self.statistics: Statistics = compiled.statistics

    def run(self, batch: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The results of all microbatches, each the arguments of one call."""
        self._batch = batch
        what = "training step" if self._trains else "forward"
        shapes = [f"{x.dtype} {tuple(x.shape)}" for x in pytree.tree_leaves(batch) if isinstance(x, torch.Tensor)]
        self._pipeline.agreement.agree_on_call(f"pipelined {what}", [f"exchange of microbatches of {shapes}"])
        results = [self.dispatch(batch[0], {})]
        active = self._active
        assert active is not None
        for number in range(1, len(batch)):
            results.append(active.result(number, batch[number]))
        return results

    def prepare(self, arguments: tuple[Any, ...]) -> None:
        """Compiles the program for such a microbatch, unless there is one already."""
        if not self.entries:
            self.entries = [self.compile(arguments, {})]

    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        start = time.perf_counter()
        program = self._acquire(args, kwargs)
        acquired = time.perf_counter()
        run = PipelinedProgram(self, program, program.inputs(args, kwargs))
        self.statistics.acquire_seconds.append(acquired - start)
        self.statistics.compile_seconds.append(time.perf_counter() - acquired)
        for stage in run.local:
            self.statistics.notes.append([f"stage {stage.number}: {note}" for note in stage.computation.notes])
        self.last = self._outer.last = Entry(run.call, program, run.local[0].computation)
        return self.last

    @property
    def batch(self) -> Sequence[tuple[Any, ...]]:
        """The microbatches of the call at hand."""
        return self._batch

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    @property
    def trains(self) -> bool:
        return self._trains

    def activate(self, program: PipelinedProgram) -> None:
        """Notes which program the call has come to."""
        self._active = program


class PipelinedProgram:
    """One program as stages.

    Args:
        function: what it belongs to.
        program: acquired with the first microbatch.
        inputs: of that call.

    Attributes:
        call: guards, the pipeline, effects: as `Program.link` makes it.
        local: the stages of this process.
    """

    def __init__(self, function: PipelinedFunction, program: Program, inputs: Sequence[Any]) -> None:
        self._function = function
        self._pipeline = pipeline = function.pipeline
        options = pipeline.options
        self._computation = program.computation
        self._outputs = program.computation.output_vars()
        if function.trains and (len(self._outputs) != 1 or self._outputs[0].value.dim()):
            raise PipelineError(
                "the training step gives more than one number",
                remedy="PP(loss=function of the model's output and the targets), with a scalar result",
            )
        count = pipeline.size * options.stages_per_rank
        parameters = {id(parameter) for parameter in pipeline.model.parameters()}
        positions = [number for number, value in enumerate(inputs) if id(value) in parameters]
        stages = cut_into_stages(program.computation, count, positions, pipeline.begins, root=_ROOT)
        if pipeline.begins is None:
            pipeline.begins = [stage.first_scope for stage in stages[1:]]
        self._agree(stages)
        pipeline.settle(stages, inputs, self._rank_of)
        executors = function.options.executors or tuple(default_executors(program.computation))
        self.local: list[LocalStage] = []
        for number, stage in enumerate(stages):
            if self._rank_of(number) != pipeline.rank:
                continue
            inner = pipeline.inner
            own = DataParallel(
                pipeline.model, inner.mesh, inner.groups, inner.options, summed=list(inner.summed.values())
            )
            own.synchronises = False  # but for the last microbatch
            self.local.append(
                LocalStage(
                    stage,
                    number,
                    is_last=number == count - 1,
                    distribution=own,
                    inputs=inputs,
                    executors=executors,
                    transforms=function.options.transforms,
                    trains=function.trains,
                    puts_off_weights=function.trains and options.schedule in SPLITS_BACKWARD,
                )
            )
        self._stages = stages
        self._schedule: Any = self._make_schedule(count) if function.trains else None
        self._mode = "run"
        self._collected: list[Sequence[Any]] = []
        self._results: list[tuple[Any, ...]] = []
        self._next = 0
        self.call = program.link(self._run)

    def _rank_of(self, number: int) -> int:
        size = self._pipeline.size
        if self._pipeline.options.schedule == "zbv":
            return number if number < size else 2 * size - 1 - number
        return number % size

    def _agree(self, stages: Sequence[Stage]) -> None:
        """Raises unless all processes are about to run the same stages."""
        lines = []
        for number, stage in enumerate(stages):
            sent = [f"{var.value.dtype} {tuple(var.value.shape)}" for var in stage.trace.inputs[: stage.received]]
            lines.append(f"stage {number} from {stage.first_scope} takes {', '.join(sent) or 'the batch'}")
        self._pipeline.agreement.agree("pipeline", lines)

    def _make_schedule(self, count: int) -> Any:
        pipeline, options = self._pipeline, self._pipeline.options
        stages = []
        for local in self.local:
            received = local.stage.trace.inputs[: local.stage.received]
            sent = [] if local.is_last else local.stage.trace.output_vars()
            outputs = tuple(_meta(var.value.shape, var.value.dtype) for var in sent)
            if local.is_last:
                outputs = (_meta((1,), self._outputs[0].value.dtype),)
            stages.append(
                pipelining.PipelineStage(
                    local,
                    local.number,
                    count,
                    self._outputs[0].value.device,
                    input_args=tuple(_meta(var.value.shape, var.value.dtype) for var in received),
                    output_args=outputs,
                    group=pipeline.group,
                    dw_builder=local.weight_gradients,
                )
            )
        kind = SCHEDULES[options.schedule]
        taken: Any = stages if options.schedule in ("interleaved", *SPLITS_BACKWARD) else stages[0]
        number = options.microbatches
        # The mean of the microbatches' losses is what gradients are of.
        return kind(taken, number, loss_fn=lambda output, target: output.sum() / number, scale_grads=False)

    # Calls ------------------------------------------------------------------------------------------------------
    def _run(self, *inputs: Any) -> tuple[Any, ...]:
        """What the program's computation is for `Program.link`."""
        if self._mode == "collect":
            self._collected.append(inputs)
            raise _Collected
        if self._mode == "give":
            return self._results[self._next]
        self._function.activate(self)
        self._collected = [inputs]
        self._mode = "collect"
        try:
            for number, arguments in enumerate(self._function.batch[1:], 1):
                answer = self.call(arguments, {})
                if not isinstance(answer, _Collected):
                    raise PipelineError(
                        f"microbatch {number} needs another program than the first one",
                        remedy="let all parts of a batch have the same sizes and take the same path",
                    )
        finally:
            self._mode = "run"
        run = self._train if self._function.trains else self._infer
        try:
            self._results = run(self._collected)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ThunderError):
                cause = cause.__cause__
            raise (cause or exchange_failure(error, "the pipeline", self._pipeline.ranks)) from error
        finally:
            self._collected = []
        return self._results[0]

    def result(self, number: int, arguments: tuple[Any, ...]) -> Any:
        """The result of a further microbatch, with its effects."""
        self._mode, self._next = "give", number
        try:
            answer = self.call(arguments, {})
        finally:
            self._mode = "run"
        if type(answer) is not tuple:
            raise PipelineError(
                f"microbatch {number} needs another program than the first one, which has changed what it depends on",
                remedy="keep counters and caches out of the model's forward",
            )
        return answer[0]

    def _train(self, batches: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        pipeline, count = self._pipeline, len(batches)
        for stage in self.local:
            stage.begin(batches)
        losses: list[torch.Tensor] = []
        self._schedule.step(target=torch.zeros(count), losses=losses, microbatch=torch.arange(count))
        for stage in self.local:
            stage.finish()
        pipeline.add_up_shared_gradients()
        loss = self._outputs[0].value
        found = torch.empty(count, dtype=loss.dtype, device=loss.device)
        last = self._rank_of(len(self._stages) - 1)
        if pipeline.rank == last:
            found = torch.stack([loss.detach() * count for loss in losses])
        dist.broadcast(found, pipeline.ranks[last], group=pipeline.group)
        return [(value,) for value in found.unbind()]

    def _infer(self, batches: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Forward passes alone: each microbatch goes through the stages of this process as soon as it arrives."""
        pipeline = self._pipeline
        for stage in self.local:
            stage.batches = batches
        kept: dict[tuple[int, int], Sequence[torch.Tensor]] = {}
        outputs: list[tuple[Any, ...]] = []
        sending = []
        for number in range(len(batches)):
            for stage in self.local:
                received = kept.pop((stage.number, number), () if stage.number == 0 else None)
                if received is None:
                    source = pipeline.ranks[self._rank_of(stage.number - 1)]
                    arriving = []
                    for var in stage.stage.trace.inputs[: stage.stage.received]:
                        value = var.value
                        buffer = torch.empty(tuple(value.shape), dtype=value.dtype, device=value.device)
                        dist.recv(buffer, source, group=pipeline.group)
                        arriving.append(buffer)
                    received = arriving
                results = stage.run(received, number)
                if stage.is_last:
                    outputs.append(tuple(x.contiguous() if isinstance(x, torch.Tensor) else x for x in results))
                    continue
                results = tuple(result.contiguous() for result in results)
                following = self._rank_of(stage.number + 1)
                if following == pipeline.rank:
                    kept[stage.number + 1, number] = results
                    continue
                for result in results:
                    sending.append((dist.isend(result, pipeline.ranks[following], group=pipeline.group), result))
        for work, _ in sending:
            if work is not None:
                work.wait()
        for stage in self.local:
            stage.batches = ()
        last = self._rank_of(len(self._stages) - 1)
        if pipeline.rank != last:
            outputs = [tuple(_empty(var.value) for var in self._outputs) for _ in batches]
        for results in outputs:
            for result in results:
                if isinstance(result, torch.Tensor):
                    dist.broadcast(result, pipeline.ranks[last], group=pipeline.group)
        return outputs


def _meta(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta", requires_grad=True)


def _empty(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty(tuple(value.shape), dtype=value.dtype, device=value.device)
