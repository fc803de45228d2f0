"""The plugin "tp": the layers of the model are divided among the processes, which all see the same batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.distributed.device_mesh import DeviceMesh

from thunder.distributed import (
    DistributedMethods,
    TensorParallel,
    data_parallel_mesh,
    group_of,
    merge_entries,
    one_device,
    parallelise,
    require_process_group,
    require_same_model,
)
from thunder.errors import MeshError
from thunder.plugins.ddp import distribute, require_module
from thunder.plugins.plugin import Choices, Plugin, register_plugin


@register_plugin
class TP(Plugin):
    """Tensor parallelism.

    The planned modules' weights become DTensors with a part on each process: make the optimiser afterwards.

    Args:
        mesh: of one dimension; None for all processes.
        plan: style by pattern of module names, such as `{"layers.*.mlp.up": "colwise"}`; None for the plan that a
            transformers model brings with it, or that of LitGPT's decoders.
        synchronise: whether parameters and buffers are taken from the first process at the start.
        timeout: seconds that other processes may take to come to a program whose collectives are new.
    """

    name = "tp"

    def __init__(
        self,
        mesh: DeviceMesh | None = None,
        *,
        plan: Mapping[str, str] | None = None,
        synchronise: bool = True,
        timeout: float = 300.0,
    ) -> None:
        self.mesh = mesh
        self.plan = plan
        self.synchronise = synchronise
        self.timeout = timeout

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        model = require_module(self.name, target)
        require_process_group(self.name)
        device = one_device(model, self.name)
        if device.type == "meta":
            raise MeshError("the plugin 'tp' needs a model with values", remedy="build it on a device, not on meta")
        mesh = data_parallel_mesh(self.mesh, device.type, shard_size=None, plugin=self.name)
        require_same_model(model, mesh, self.name)
        summed = parallelise(model, mesh, self.plan, synchronise=self.synchronise)
        ranks = mesh.mesh.flatten().tolist()
        choices.transforms.append(merge_entries)
        distribution = TensorParallel(model, group_of(mesh), ranks, summed, self.timeout)
        # Decoding meets a new size at every token: such programs run operation by operation, with symbols for sizes.
        choices.options.setdefault("cache", "symbolic values")
        return distribute(choices, distribution, DistributedMethods)
