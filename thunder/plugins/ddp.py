"""The plugin "ddp": every process has the model, and gradients are averaged while backward goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from thunder.distributed import DataParallel, DataParallelOptions, Groups, broadcast_from_first, group_of
from thunder.errors import OptionError
from thunder.plugins.distributed import DistributedPlugin, distribute, prepare
from thunder.plugins.plugin import Choices, register_plugin


@register_plugin
class DDP(DistributedPlugin):
    """Data parallelism with whole parameters on every process.

    Args:
        mesh: of one dimension; None for all processes.
        bucket_mb: gradients travel together up to this size.
        reduce_dtype: gradients are averaged in this dtype; None for their own.
        find_unused_parameters: programs may differ between ranks in which parameters they use: each takes part in
            every average, with zeros where this rank did not use it.
        synchronise: whether parameters and buffers are taken from the first process at the start.
        timeout: seconds that other processes may take to come to a program whose collectives are new; collectives
            themselves have the process group's time-out.
    """

    name = "ddp"
    place = 2

    def __init__(
        self,
        mesh: DeviceMesh | None = None,
        *,
        bucket_mb: float = 25.0,
        reduce_dtype: torch.dtype | None = None,
        find_unused_parameters: bool = False,
        synchronise: bool = True,
        timeout: float = 300.0,
    ) -> None:
        self.mesh = mesh
        self.bucket_mb = bucket_mb
        self.reduce_dtype = reduce_dtype
        self.find_unused_parameters = find_unused_parameters
        self.synchronise = synchronise
        self.timeout = timeout

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        model, _, mesh, divided, joint = prepare(self.name, choices, target, self.mesh)
        if divided is not None and self.find_unused_parameters:
            raise OptionError(
                "find_unused_parameters does not work with tensor parallelism",
                remedy="let all ranks use the same parameters",
            )
        if self.synchronise:
            broadcast_from_first([*model.parameters(), *model.buffers()], mesh)
        options = DataParallelOptions(
            bucket_bytes=int(self.bucket_mb * 2**20),
            in_flight=None,
            reduce_dtype=self.reduce_dtype,
            timeout=self.timeout,
            averages_unused=self.find_unused_parameters,
        )
        groups = Groups(replicate=group_of(mesh), tensor=None if divided is None else divided.groups.tensor)
        summed = [] if divided is None else list(divided.summed.values())
        return distribute(choices, DataParallel(model, joint, groups, options, summed=summed))
