"""Clipping gradients by their norm over all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


def clip_gradients(
    parameters: Iterable[torch.Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    *,
    pipeline: DeviceMesh | None = None,
    counts: Callable[[torch.Tensor], bool] = lambda parameter: True,
) -> torch.Tensor:
    """Scales gradients in place; returns their norm before, as a plain tensor that is the same on every process.

    Plain tensors and DTensors on any meshes may occur together; partial sums over a mesh dimension are taken only
    where a gradient is divided along it.

    Args:
        parameters: of this process.
        max_norm, norm_type: as in `torch.nn.utils.clip_grad_norm_`.
        pipeline: processes that have other parameters, or None.
        counts: whether this process is the one of the pipeline that counts a parameter which several have.
    """
    present = [parameter for parameter in parameters if parameter.grad is not None]
    gradients: list[torch.Tensor] = [parameter.grad for parameter in present if parameter.grad is not None]
    if not gradients and pipeline is None:
        return torch.zeros(())
    is_maximum = math.isinf(norm_type)
    meshes: dict[tuple[dist.ProcessGroup, ...], DeviceMesh] = {}
    partial: dict[tuple[dist.ProcessGroup, ...], list[torch.Tensor]] = {}
    for parameter, gradient in zip(present, gradients):
        if not counts(parameter):
            continue
        groups: tuple[dist.ProcessGroup, ...] = ()
        local = gradient
        if isinstance(gradient, DTensor):
            divided = [number for number, kind in enumerate(gradient.placements) if kind.is_shard()]
            groups = tuple(gradient.device_mesh.get_group(number) for number in divided)
            meshes[groups] = gradient.device_mesh
            local = gradient.to_local()
        norm = torch.linalg.vector_norm(local.detach(), norm_type) if local.numel() else local.new_zeros(())
        partial.setdefault(groups, []).append(norm if is_maximum else norm**norm_type)
    totals = []
    for groups, norms in partial.items():
        stacked = torch.stack([norm.to(gradients[0].device) for norm in norms])
        total = stacked.max() if is_maximum else stacked.sum()
        if groups:
            # Gradients may be kept where the groups do not reach.
            total = total.to(meshes[groups].device_type)
        for group in groups:
            dist.all_reduce(total, dist.ReduceOp.MAX if is_maximum else dist.ReduceOp.SUM, group=group)
        totals.append(total.to(gradients[0].device))
    device = gradients[0].device if gradients else torch.device("cpu")
    combined = torch.stack(totals) if totals else torch.zeros(1, device=device)
    together = combined.max() if is_maximum else combined.sum()
    if pipeline is not None:
        together = together.to(pipeline.device_type, torch.float64)  # processes may have different dtypes, or none
        group = pipeline.get_group()
        dist.all_reduce(together, dist.ReduceOp.MAX if is_maximum else dist.ReduceOp.SUM, group=group)
    norm = together if is_maximum else together ** (1.0 / norm_type)
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for gradient in gradients:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        local.detach().mul_(factor.to(local.device, local.dtype))
    return norm
