"""The plugin "tp": the layers of the model are divided among the processes, which all see the same batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from thunder.distributed import (
    DataParallel,
    DataParallelOptions,
    DistributedMethods,
    Groups,
    Initialise,
    begin_collectives_early,
    divide_cross_entropy,
    group_of,
    merge_entries,
    parallelise,
)
from thunder.plugins.distributed import DistributedPlugin, default_device, distribute, prepare
from thunder.plugins.plugin import Choices, register_plugin


@register_plugin
class TP(DistributedPlugin):
    """Tensor parallelism.

    The planned modules' weights become DTensors with a part on each process: make the optimiser afterwards.

    Args:
        mesh: of one dimension; None for all processes.
        plan: style by pattern of module names, such as `{"layers.*.mlp.up": "colwise"}`; None for the plan that a
            transformers model brings with it, or that of LitGPT's decoders.
        sequence_parallel: between divided layers each process has some rows of the sequence, norms and dropout
            included: as much communication, less memory. For decoders built like Llama.
        device: for a model on the meta device: where its parts are made; None for this process's accelerator or CPU.
        initialise: for a model on the meta device: gives one module's own parameters and buffers their values; None
            for each module's `reset_parameters`. One module at a time is whole.
        synchronise: whether parameters and buffers are taken from the first process at the start.
        timeout: seconds that other processes may take to come to a program whose collectives are new.
    """

    name = "tp"
    place = 1

    def __init__(
        self,
        mesh: DeviceMesh | None = None,
        *,
        plan: Mapping[str, str] | None = None,
        sequence_parallel: bool = False,
        device: torch.device | str | None = None,
        initialise: Initialise | None = None,
        synchronise: bool = True,
        timeout: float = 300.0,
    ) -> None:
        self.mesh = mesh
        self.plan = plan
        self.sequence_parallel = sequence_parallel
        self.device = device
        self.initialise = initialise
        self.synchronise = synchronise
        self.timeout = timeout

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        model, device, mesh, _, _ = prepare(
            self.name, choices, target, self.mesh, meta_device=default_device(self.device)
        )
        summed = parallelise(
            model, mesh, self.plan, synchronise=self.synchronise, sequence_parallel=self.sequence_parallel,
            device=device, initialise=self.initialise,
        )  # fmt: skip
        choices.transforms += [merge_entries, divide_cross_entropy, begin_collectives_early]
        options = DataParallelOptions(in_flight=None, bucket_bytes=25 << 20, timeout=self.timeout)
        distribution = DataParallel(model, mesh, Groups(tensor=group_of(mesh)), options, summed=summed)
        # Decoding meets a new size at every token: such programs run operation by operation, with symbols for sizes.
        choices.options.setdefault("cache", "symbolic values")
        return distribute(choices, distribution, DistributedMethods)
