"""The plugin "fsdp": parameters, gradients and optimiser states are divided among the processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from thunder.distributed import DataParallel, DataParallelOptions, Groups, Initialise, fully_shard, group_of
from thunder.errors import OptionError
from thunder.plugins.distributed import DistributedPlugin, default_device, distribute, prepare
from thunder.plugins.plugin import Choices, register_plugin


@register_plugin
class FSDP(DistributedPlugin):
    """Data parallelism with divided parameters, which are gathered block by block.

    The model's parameters become DTensors with some rows on each process: make the optimiser afterwards.

    Args:
        mesh: of one dimension, or of two: equal along the first, divided along the second; None for all processes.
        stage: 3: parameters are freed after their block's forward and gathered again in backward; 2: they are kept.
        shard_size: in place of a mesh: processes that share one copy of the parameters.
        param_dtype: parameters are gathered and computed with in this dtype; their parts keep their own.
        reduce_dtype: gradients are averaged in this dtype; None for `param_dtype`, or their own.
        bucket: "block": each block's gradients are reduced together; a number of bytes: those of consecutive blocks up
            to this size.
        prefetch: how many blocks ahead a gather begins.
        offload: parts, gradients and with them the optimiser's states are kept in the CPU's memory, and the optimiser
            runs there; parts are copied to the device for each gather.
        device: for a model on the meta device: where its parts are made; None for this process's accelerator or CPU.
        initialise: for a model on the meta device: gives one module's own parameters and buffers their values; None
            for each module's `reset_parameters`.
        synchronise: whether parameters and buffers are taken from the first process at the start.
        timeout: seconds that other processes may take to come to a program whose collectives are new; collectives
            themselves have the process group's time-out.
    """

    name = "fsdp"
    place = 2

    def __init__(
        self,
        mesh: DeviceMesh | None = None,
        *,
        stage: int = 3,
        shard_size: int | None = None,
        param_dtype: torch.dtype | None = None,
        reduce_dtype: torch.dtype | None = None,
        bucket: str | int = "block",
        prefetch: int = 1,
        offload: bool = False,
        device: torch.device | str | None = None,
        initialise: Initialise | None = None,
        synchronise: bool = True,
        timeout: float = 300.0,
    ) -> None:
        if stage not in (2, 3):
            raise OptionError(f"stage={stage!r}", remedy="2 keeps parameters until backward, 3 gathers them again")
        if bucket != "block" and (not isinstance(bucket, int) or bucket <= 0):
            raise OptionError(f"bucket={bucket!r}", remedy="'block' or a number of bytes")
        if not isinstance(prefetch, int) or prefetch < 0:
            raise OptionError(f"prefetch={prefetch!r}", remedy="a number of blocks, 0 or more")
        self.mesh = mesh
        self.stage = stage
        self.shard_size = shard_size
        self.param_dtype = param_dtype
        self.reduce_dtype = reduce_dtype
        self.bucket = bucket
        self.prefetch = prefetch
        self.offload = offload
        self.device = device
        self.initialise = initialise
        self.synchronise = synchronise
        self.timeout = timeout

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        model, device, mesh, divided, joint = prepare(
            self.name, choices, target, self.mesh, shard_size=self.shard_size, meta_device=default_device(self.device)
        )
        made = fully_shard(
            model, mesh, device, initialise=self.initialise, synchronise=self.synchronise, joint=joint,
            home=torch.device("cpu") if self.offload else device,
        )  # fmt: skip
        options = DataParallelOptions(
            keep_whole=self.stage == 2,
            prefetch=self.prefetch,
            bucket_bytes=0 if isinstance(self.bucket, str) else self.bucket,
            seen_dtype=self.param_dtype,
            seen_device=device if self.offload else None,
            reduce_dtype=self.reduce_dtype,
            timeout=self.timeout,
        )
        groups = Groups(
            shard=group_of(mesh, -1),
            replicate=group_of(mesh, 0) if mesh.ndim == 2 else None,
            tensor=None if divided is None else divided.groups.tensor,
        )
        summed = [] if divided is None else [made[number] for number in divided.summed]
        return distribute(choices, DataParallel(model, joint, groups, options, summed=summed))
