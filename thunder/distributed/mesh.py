"""Meshes and process groups: what the plugins run on, checked.

Input: what the user gave (a `DeviceMesh`, a number of processes, nothing).  Output: a mesh whose dimensions have
names, or an error that says the same on every rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from thunder import _torch_compat
from thunder.distributed.collectives import Group
from thunder.errors import DivergenceError, MeshError, ProcessGroupError


def require_process_group(plugin: str) -> None:
    """Raises unless torch.distributed is initialised."""
    if not dist.is_available():
        raise ProcessGroupError(
            f"the plugin {plugin!r} needs torch.distributed, which this PyTorch was built without",
            remedy="install a build of PyTorch with torch.distributed",
        )
    if not dist.is_initialized():
        raise ProcessGroupError(
            f"the plugin {plugin!r} needs a process group, and there is none",
            remedy="start the program with torchrun and call torch.distributed.init_process_group() first",
        )


def data_parallel_mesh(mesh: DeviceMesh | None, device_type: str, *, shard_size: int | None, plugin: str) -> DeviceMesh:
    """The mesh that data parallelism runs on.

    Args:
        mesh: the user's, of one or two dimensions, or None for all processes.
        device_type: of the model's parameters.
        shard_size: for hybrid sharding: processes that share one copy of the parameters; None for all.
        plugin: named in errors.
    """
    require_process_group(plugin)
    world = dist.get_world_size()
    if mesh is not None:
        if shard_size is not None:
            raise MeshError("both mesh and shard_size are given", remedy="give one of them")
        if mesh.ndim > 2 or (mesh.ndim == 2 and plugin != "fsdp"):
            raise MeshError(
                f"the plugin {plugin!r} was given a mesh of {mesh.ndim} dimensions {mesh.mesh_dim_names or ''}",
                remedy="pass the dimensions it is to use: mesh['dp'], mesh['replicate', 'shard'] for hybrid sharding",
            )
        if mesh.device_type != device_type:
            raise MeshError(
                f"the mesh is of {mesh.device_type} devices, the model's parameters are on {device_type}",
                remedy="move the model to this process's device first, or make the mesh for its device type",
            )
        return mesh
    if shard_size is None or shard_size == world:
        return init_device_mesh(device_type, (world,), mesh_dim_names=("tp" if plugin == "tp" else "dp",))
    if shard_size < 1 or world % shard_size:
        raise MeshError(
            f"{world} processes cannot be divided into groups of {shard_size}",
            remedy=f"choose shard_size among the divisors of {world}: {_divisors(world)}",
        )
    return init_device_mesh(device_type, (world // shard_size, shard_size), mesh_dim_names=("replicate", "shard"))


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def group_of(mesh: DeviceMesh, dimension: int = -1) -> Group:
    """The group of this process along one dimension of a mesh."""
    dimension %= mesh.ndim
    group = mesh.get_group(dimension)
    ranks = tuple(dist.get_process_group_ranks(group))
    return Group(group.group_name, mesh.size(dimension), mesh.get_local_rank(dimension), ranks)


def joint_mesh(first: DeviceMesh, second: DeviceMesh) -> DeviceMesh:
    """The mesh that has the dimensions of both, in the order of the mesh that they were taken from.

    Raises:
        MeshError: they are not different dimensions of one mesh.
    """
    names = {*(first.mesh_dim_names or ()), *(second.mesh_dim_names or ())}
    root = _torch_compat.root_mesh(first)
    known = root.mesh_dim_names or ()
    if root is not _torch_compat.root_mesh(second) or len(names) != first.ndim + second.ndim:
        raise MeshError(
            f"the meshes {first.mesh_dim_names} and {second.mesh_dim_names} are not different dimensions of one mesh",
            remedy="make one, init_device_mesh(type, (2, 4), mesh_dim_names=('dp', 'tp')), and pass mesh['dp'] to the "
            "one plugin and mesh['tp'] to the other",
        )
    ordered = tuple(name for name in known if name in names)
    return root if ordered == known else root[ordered]


def one_device(model: torch.nn.Module, plugin: str) -> torch.device:
    """The device of all parameters and buffers; `meta` only when every parameter is there.

    Raises:
        MeshError: they are on several devices.
    """
    devices: dict[torch.device, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        devices.setdefault(tensor.device, name)
    parameter_devices = {parameter.device for parameter in model.parameters()}
    if parameter_devices == {torch.device("meta")}:
        return torch.device("meta")
    if len(devices) > 1:
        listed = ", ".join(f"{name!r} on {device}" for device, name in devices.items())
        raise MeshError(
            f"the plugin {plugin!r} needs a model on one device: {listed}",
            remedy="model.to(device) before thunder.compile, with torch.cuda.set_device(local_rank) on GPUs",
        )
    return next(iter(devices), torch.device("cpu"))


def require_same_model(model: torch.nn.Module, mesh: DeviceMesh, plugin: str) -> None:
    """Raises on every rank when ranks have different parameters or buffers.

    Raises:
        DivergenceError: names the ranks and the first parameter that differs.
    """
    listed = [(name, tuple(p.shape), str(p.dtype), p.requires_grad) for name, p in model.named_parameters()]
    listed += [(name, tuple(buffer.shape), str(buffer.dtype), False) for name, buffer in model.named_buffers()]
    for dimension in range(mesh.ndim):
        group = mesh.get_group(dimension)
        found: list[list[tuple[str, tuple[int, ...], str, bool]]] = [[] for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(found, listed, group=group)
        ranks = dist.get_process_group_ranks(group)
        for rank, other in zip(ranks, found):
            if other == found[0]:
                continue
            for number in range(max(len(other), len(found[0]))):
                mine = found[0][number] if number < len(found[0]) else "nothing"
                its = other[number] if number < len(other) else "nothing"
                if mine != its:
                    raise DivergenceError(
                        f"the plugin {plugin!r} was given different models: rank {ranks[0]} has {mine} "
                        f"where rank {rank} has {its}",
                        remedy="build the same model on every rank; seeds may differ, shapes may not",
                    )
