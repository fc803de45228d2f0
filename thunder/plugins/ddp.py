"""The plugin "ddp": every process has the model, and gradients are averaged while backward goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from thunder.distributed import (
    DataParallel,
    DataParallelMethods,
    DataParallelOptions,
    broadcast_from_first,
    data_parallel_mesh,
    group_of,
    one_device,
    require_process_group,
    require_same_model,
)
from thunder.errors import OptionError
from thunder.plugins.plugin import Choices, Plugin, register_plugin


@register_plugin
class DDP(Plugin):
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
        model = require_module(self.name, target)
        require_process_group(self.name)
        device = one_device(model, self.name)
        mesh = data_parallel_mesh(self.mesh, device.type, shard_size=None, plugin=self.name)
        require_same_model(model, mesh, self.name)
        if self.synchronise:
            broadcast_from_first([*model.parameters(), *model.buffers()], mesh)
        options = DataParallelOptions(
            bucket_bytes=int(self.bucket_mb * 2**20),
            in_flight=None,
            reduce_dtype=self.reduce_dtype,
            timeout=self.timeout,
            averages_unused=self.find_unused_parameters,
        )
        return distribute(choices, DataParallel(model, None, group_of(mesh), mesh.mesh.flatten().tolist(), options))


def require_module(plugin: str, target: Callable[..., Any]) -> torch.nn.Module:
    """The model that a distributed plugin is applied to."""
    if not isinstance(target, torch.nn.Module):
        raise OptionError(
            f"the plugin {plugin!r} was given {type(target).__qualname__}, not a model",
            remedy="compile the nn.Module whose parameters are to be distributed",
        )
    return target


def distribute(choices: Choices, distribution: DataParallel, methods: type = DataParallelMethods) -> Choices:
    """The choices for a model that is spread over processes."""
    if choices.options.get("distribution") is not None:
        raise OptionError("two distributed plugins", remedy="use one of 'ddp', 'fsdp' and 'tp'")
    if choices.front_end != "interpreter":
        raise OptionError(
            f"distributed plugins work with the front end 'interpreter', not {choices.front_end!r}",
            remedy="use recipe='auto'",
        )
    choices.options["distribution"] = distribution
    # Programs with symbolic sizes are not lowered: their collectives would not overlap with anything.
    choices.options.setdefault("cache", "constant values")
    choices.options["cuda_graphs"] = "off"
    choices.options["mixins"] = (*choices.options.get("mixins", ()), methods)
    return choices
