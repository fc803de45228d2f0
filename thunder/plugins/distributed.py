"""What the distributed plugins have in common.

Input: what `thunder.compile` was given.  Output: a model that is known to be the same on every process, with its mesh
(`prepare`), and the choices for a model that is spread (`distribute`).  Every check here gives the same error on every
rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from thunder.distributed import (
    DataParallel,
    DataParallelMethods,
    DistributedMethods,
    Groups,
    data_parallel_mesh,
    joint_mesh,
    one_device,
    require_process_group,
    require_same_model,
)
from thunder.errors import OptionError
from thunder.executors.distribution import Distribution
from thunder.plugins.plugin import Choices, Plugin
from thunder.precision import quantized_layers


class DistributedPlugin(Plugin):
    """Base class of the plugins that spread a model over processes.

    Attributes:
        place: in the order in which they are given; of one place there is one at most.
    """

    place = 0

    def refuses_to_follow(self, other: Plugin) -> str | None:
        if not isinstance(other, DistributedPlugin) or other.place < self.place:
            return None
        return f"{self.name!r} cannot follow {other.name!r}"


class Prepared(NamedTuple):
    """What a distributed plugin works on.

    Attributes:
        model: the model.
        device: where its parts are to be.
        mesh: the processes of this plugin.
        divided: what earlier plugins have made of the model; None without them.
        joint: the mesh with the dimensions of all of them.
    """

    model: torch.nn.Module
    device: torch.device
    mesh: DeviceMesh
    divided: DataParallel | None
    joint: DeviceMesh


def prepare(
    plugin: str,
    choices: Choices,
    target: Callable[..., Any],
    mesh: DeviceMesh | None,
    *,
    shard_size: int | None = None,
    meta_device: torch.device | None = None,
) -> Prepared:
    """Checks what a distributed plugin is applied to.

    Args:
        plugin: named in errors.
        choices: those of the plugins before.
        target: what is compiled.
        mesh: the user's, or None for all processes.
        shard_size: for hybrid sharding: processes that share one copy of the parameters.
        meta_device: for a model on the meta device: where its parts are to be; None where that is an error.

    Raises:
        OptionError: it is no model, or the plugins before do not go with this one.
        ProcessGroupError: there is no process group.
        MeshError: the model is on several devices, or the mesh does not fit.
        DivergenceError: ranks have different models.
    """
    if not isinstance(target, torch.nn.Module):
        raise OptionError(
            f"the plugin {plugin!r} was given {type(target).__qualname__}, not a model",
            remedy="compile the nn.Module whose parameters are to be distributed",
        )
    if choices.front_end != "interpreter":
        raise OptionError(
            f"distributed plugins work with the front end 'interpreter', not {choices.front_end!r}",
            remedy="use recipe='auto'",
        )
    divided: DataParallel | None = choices.options.get("distribution")
    placed = [name for name, parameter in target.named_parameters() if isinstance(parameter, DTensor)]
    if divided is None and placed:
        raise OptionError(
            f"the plugin {plugin!r} was given a model that is spread already: {placed[0]!r} is a DTensor",
            remedy="name all plugins in one call of thunder.compile, on the model as it was built",
        )
    quantised = next(iter(quantized_layers(target)), None) if plugin == "fsdp" else None
    if quantised is not None:
        raise OptionError(
            f"weights that are stored in few bits ({quantised!r}) are not divided by 'fsdp': every process would have "
            "all of them",
            remedy="quantise without 'fsdp', or train in 8 bits: 'fp8' for a model in training mode keeps its weights",
        )
    require_process_group(plugin)
    device = one_device(target, plugin)
    if device.type == "meta":
        if meta_device is None:
            raise OptionError(
                f"the plugin {plugin!r} needs a model with values", remedy="build it on a device, not on meta"
            )
        device = meta_device
    mesh = data_parallel_mesh(mesh, device.type, shard_size=shard_size, plugin=plugin)
    joint = mesh if divided is None else joint_mesh(divided.mesh, mesh)
    require_same_model(target, joint, plugin)
    return Prepared(target, device, mesh, divided, joint)


def default_device(device: torch.device | str | None) -> torch.device:
    """Where parts of a model on the meta device are made: the user's choice, this process's accelerator, or the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def distribute(choices: Choices, distribution: Distribution, methods: type = DataParallelMethods) -> Choices:
    """The choices for a model that is spread over processes."""
    choices.options["distribution"] = distribution
    # Programs with symbolic sizes are not lowered: their collectives would not overlap with anything.
    if not isinstance(distribution, DataParallel) or distribution.groups != Groups(tensor=distribution.groups.tensor):
        choices.options["cache"] = "constant values"
    if choices.options.get("cuda_graphs") != "all":  # what "reduce-overhead" asks for, before or after
        choices.options["cuda_graphs"] = "off"
    others = [mixin for mixin in choices.options.get("mixins", ()) if not issubclass(mixin, DistributedMethods)]
    choices.options["mixins"] = (*others, methods)
    return choices
