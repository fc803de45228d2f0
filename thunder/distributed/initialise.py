"""Laying parameters out on processes: the same values everywhere, then divided.

Input: a model and a mesh.  Output: the same model object; `fully_shard` exchanges its parameters for DTensors of
which this process keeps some rows.  One parameter at a time is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from thunder import _torch_compat
from thunder.distributed.layout import rows_of
from thunder.errors import OptionError

Initialise = Callable[[torch.nn.Module], None]


def broadcast_from_first(tensors: list[torch.Tensor], mesh: DeviceMesh) -> None:
    """Gives every process of the mesh the values of its first one."""
    for dimension in reversed(range(mesh.ndim)):
        group = mesh.get_group(dimension)
        first = dist.get_process_group_ranks(group)[0]
        for tensor in tensors:
            dense = _torch_compat.local_part(tensor) if isinstance(tensor, DTensor) else tensor.detach()
            sent = dense if dense.is_contiguous() else dense.contiguous()
            dist.broadcast(sent, first, group=group)
            if sent is not dense:
                dense.copy_(sent)


def fully_shard(
    model: torch.nn.Module,
    mesh: DeviceMesh,
    device: torch.device,
    *,
    initialise: Initialise | None,
    synchronise: bool,
    joint: DeviceMesh | None = None,
    home: torch.device | None = None,
) -> dict[int, torch.nn.Parameter]:
    """Divides every parameter of the model among the processes of the mesh's last dimension.

    Args:
        model: its parameters are exchanged in place; tied ones stay tied.
        mesh: of one dimension, or two for hybrid sharding.
        joint: for a model whose layers are divided already (tensor parallelism): the mesh that has the dimensions of
            both.
        device: where programs compute.
        home: where the parts are to be kept; None for `device`.
        initialise: for a model on the meta device: gives one module's own parameters and buffers their values; None
            for each module's `reset_parameters`.
        synchronise: whether values are taken from the first process.

    Returns:
        The new parameters by the ids of the old ones.
    """
    made: dict[int, torch.nn.Parameter] = {}
    kept: list[torch.Tensor] = []  # an id says nothing of a parameter that is gone
    for _, module, names in modules_with_values(model, mesh, device, initialise=initialise, synchronise=synchronise):
        for name in names:
            parameter = module._parameters[name]
            assert parameter is not None
            divided = divide(parameter, mesh, joint or mesh, home or device)
            divided.__dict__.update(parameter.__dict__)
            module._parameters[name] = made[id(parameter)] = divided
            kept.append(parameter)
    return made


def modules_with_values(
    model: torch.nn.Module,
    mesh: DeviceMesh,
    device: torch.device,
    *,
    initialise: Initialise | None,
    synchronise: bool,
) -> Iterator[tuple[str, torch.nn.Module, list[str]]]:
    """Goes through the modules of a model, which the caller divides one by one, so that one at a time is whole.

    A module that is on the meta device gets memory and values when it is its turn.  A parameter that several modules
    share is the first one's; the others get what the caller has made of it.

    Args:
        model, mesh, device, initialise, synchronise: as for `fully_shard`.

    Yields:
        (path, module, names of its own parameters that no module before has).
    """
    first_place: dict[int, tuple[torch.nn.Module, str]] = {}
    tied: dict[tuple[int, str], tuple[torch.nn.Module, str]] = {}
    # Before anything is exchanged: an id says nothing of a parameter that is gone.
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and first_place.setdefault(id(parameter), (module, name)) != (module, name):
                tied[id(module), name] = first_place[id(parameter)]
    first_place.clear()
    for path, module in model.named_modules():
        if any(tensor.is_meta for tensor in _own(module)):
            _materialise(module, path, device, initialise)
        for name in module._parameters:
            if (id(module), name) in tied:
                owner, own_name = tied[id(module), name]
                module._parameters[name] = owner._parameters[own_name]
        names = [name for name, p in module._parameters.items() if p is not None and (id(module), name) not in tied]
        if synchronise:
            broadcast_from_first([buffer for buffer in module._buffers.values() if buffer is not None], mesh)
            broadcast_from_first([p for name in names if (p := module._parameters[name]) is not None], mesh)
        yield path, module, names


def _own(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from (tensor for tensor in module._parameters.values() if tensor is not None)
    yield from (tensor for tensor in module._buffers.values() if tensor is not None)


def _materialise(module: torch.nn.Module, path: str, device: torch.device, initialise: Initialise | None) -> None:
    """Gives the parameters and buffers of one module, without its children, memory and values."""
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor, recurse=False)
    initialise_module(module, path, initialise)


def initialise_module(module: torch.nn.Module, path: str, initialise: Initialise | None) -> None:
    """Gives the parameters and buffers of one module, without its children, values.

    Raises:
        OptionError: nothing says which.
    """
    if initialise is not None:
        initialise(module)
        return
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        raise OptionError(
            f"the model is on the meta device, and {path or 'the model'} ({type(module).__qualname__}) has no "
            "reset_parameters()",
            remedy="pass initialise=function(module) that gives a module's own parameters and buffers their values "
            "(model._init_weights for transformers' models), or load a checkpoint afterwards with initialise=nothing",
        )
    reset()


def divide(parameter: torch.Tensor, mesh: DeviceMesh, joint: DeviceMesh, home: torch.device) -> torch.nn.Parameter:
    """The parameter as a DTensor: rows divided along the last dimension of `mesh`, equal along the first of two.

    Of a parameter that tensor parallelism has divided, its own part is divided, along a dimension that is still whole;
    one that has no such dimension, and a scalar, stay as they are on every process.

    Args:
        parameter: a plain tensor, or a DTensor.
        mesh: of data parallelism.
        joint: the mesh of the result: that one, or one with the dimensions of tensor parallelism beside it.
        home: where the part is to be kept.
    """
    names = joint.mesh_dim_names or ()
    placements: list[Placement] = [Replicate()] * joint.ndim
    taken: set[int] = set()
    part = parameter.detach()
    if isinstance(parameter, DTensor):
        part = _torch_compat.local_part(parameter)
        for name, placement in zip(parameter.device_mesh.mesh_dim_names or (), parameter.placements):
            placements[names.index(name)] = placement
            taken |= {placement.dim} if isinstance(placement, Shard) else set()
    free = [dimension for dimension in range(parameter.dim()) if dimension not in taken]
    if free:
        position = joint.ndim - 1 if joint is mesh else names.index((mesh.mesh_dim_names or ())[-1])
        placements[position] = Shard(free[0])
        rows = rows_of(part.shape[free[0]], mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1))
        part = part.narrow(free[0], rows.start, len(rows)).clone(memory_format=torch.contiguous_format)
    stride = torch.empty(parameter.shape, device="meta").stride()
    distributed: torch.Tensor = DTensor.from_local(
        part, joint, placements, run_check=False, shape=parameter.shape, stride=stride
    )
    if part.device.type != home.type:
        # Copies from pinned memory to the device do not wait.
        distributed = _torch_compat.dtensor_like(distributed, part.to(home).pin_memory())
    return torch.nn.Parameter(distributed, requires_grad=parameter.requires_grad)
