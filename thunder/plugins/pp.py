"""The plugin "pp": the layers of the model are stages, which processes run on parts of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from thunder.distributed import (
    SCHEDULES,
    Initialise,
    Pipeline,
    PipelineMethods,
    PipelineOptions,
    broadcast_from_first,
)
from thunder.errors import OptionError, unknown_name
from thunder.plugins.distributed import DistributedPlugin, default_device, distribute, prepare
from thunder.plugins.plugin import Choices, register_plugin


@register_plugin
class PP(DistributedPlugin):
    """Pipeline parallelism.

    The compiled model has `train_step(*args, target=..., **kwargs)`, which computes gradients of the mean loss of a
    batch, and is called under `torch.no_grad()` for its output.  Every process passes the same batch.  After the first
    call a process has values and gradients of its own stages' parameters only.

    Args:
        mesh: of one dimension; None for all processes.
        schedule: "gpipe", "1f1b", "interleaved", "zero-bubble" or "zbv".
        microbatches: parts that a batch is divided into; None for two for each stage.
        stages: names of the modules at which the second and later stages begin; None for stages of about equal
            estimated cost.
        stages_per_rank: stages of each process; None for one, with "interleaved", "zero-bubble" and "zbv" two.
        loss: `loss(output, *targets)`, a mean over the batch; None: the model's output is the loss, or has it as
            `.loss`.
        device: for a model on the meta device: where its stages are made; None for this process's accelerator or CPU.
        initialise: for a model on the meta device: gives one module's own parameters and buffers their values; None
            for each module's `reset_parameters`.
        synchronise: whether parameters and buffers are taken from the first process at the start.
        timeout: seconds that other processes may take to come to a program that is new.
    """

    name = "pp"
    place = 3

    def __init__(
        self,
        mesh: DeviceMesh | None = None,
        *,
        schedule: str = "1f1b",
        microbatches: int | None = None,
        stages: Sequence[str] | None = None,
        stages_per_rank: int | None = None,
        loss: Callable[..., torch.Tensor] | None = None,
        device: torch.device | str | None = None,
        initialise: Initialise | None = None,
        synchronise: bool = True,
        timeout: float = 300.0,
    ) -> None:
        if schedule not in SCHEDULES:
            raise unknown_name("schedule", schedule, list(SCHEDULES))
        several = schedule in ("interleaved", "zero-bubble", "zbv")
        if stages_per_rank is None:
            stages_per_rank = 2 if several else 1
        if type(stages_per_rank) is not int or stages_per_rank < 1 or (stages_per_rank > 1 and not several):
            raise OptionError(
                f"stages_per_rank={stages_per_rank!r} with the schedule {schedule!r}",
                remedy="1 with 'gpipe' and '1f1b', 2 with 'zbv', any number with 'interleaved' and 'zero-bubble'",
            )
        if schedule == "zbv" and stages_per_rank != 2:
            raise OptionError("the schedule 'zbv' has two stages on each process", remedy="leave stages_per_rank out")
        if microbatches is not None and (type(microbatches) is not int or microbatches < 1):
            raise OptionError(f"microbatches={microbatches!r}", remedy="a number of parts, 1 or more")
        self.mesh = mesh
        self.schedule = schedule
        self.microbatches = microbatches
        self.stages = None if stages is None else tuple(stages)
        self.stages_per_rank = stages_per_rank
        self.loss = loss
        self.device = device
        self.initialise = initialise
        self.synchronise = synchronise
        self.timeout = timeout

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        model, device, mesh, inner, _ = prepare(
            self.name, choices, target, self.mesh, meta_device=default_device(self.device)
        )
        count = mesh.size() * self.stages_per_rank
        if self.stages is not None and len(self.stages) != count - 1:
            raise OptionError(
                f"stages names {len(self.stages)} modules, and {mesh.size()} processes with {self.stages_per_rank} "
                f"stages each have {count} stages",
                remedy=f"name the {count - 1} modules at which the second and later stages begin",
            )
        microbatches = self.microbatches if self.microbatches is not None else 2 * count
        fewest = mesh.size() if self.schedule == "interleaved" else count
        if self.schedule != "gpipe" and (microbatches < fewest or (microbatches % mesh.size() and fewest < count)):
            raise OptionError(
                f"{microbatches} microbatches are too few for the schedule {self.schedule!r} with {count} stages",
                remedy=f"microbatches={2 * count}",
            )
        starts_late = any(parameter.is_meta for parameter in model.parameters())
        if self.synchronise and not starts_late:
            broadcast_from_first([*model.parameters(), *model.buffers()], mesh)
        options = PipelineOptions(
            schedule=self.schedule,
            microbatches=microbatches,
            stages_per_rank=self.stages_per_rank,
            begins=self.stages,
            loss=self.loss,
            timeout=self.timeout,
        )
        pipeline = Pipeline(model, mesh, inner, options)
        if starts_late:
            pipeline.start_without_memory(device, self.initialise)
        return distribute(choices, pipeline, PipelineMethods)
