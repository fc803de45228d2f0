"""Where parameters lie in memory: behind one another, so that several weights are one matrix.

Input: parameters that a program multiplies with the same values (see `merge_projections`).  The parameters stay what
they are, objects, values, names in `state_dict`; only their memory moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thunder import _torch_compat
from thunder.trace import Trace

MERGED_LINEAR = "thunder.merged_linear.default"


def merged(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """One tensor over the memory of all, which differ in their first size only; None when they lie apart.

    Tensors without data, of a program that is being compiled, are taken to lie as they will when it runs.
    """
    first = tensors[0]
    if _torch_compat.is_fake(first):
        return first.new_empty((sum(tensor.shape[0] for tensor in tensors), *first.shape[1:]))
    storage = first.untyped_storage().data_ptr()
    place = first.data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != place or tensor.untyped_storage().data_ptr() != storage or not tensor.is_contiguous():
            return None
        place += tensor.numel() * tensor.element_size()
    size = sum(tensor.shape[0] for tensor in tensors)
    return torch.as_strided(first, (size, *first.shape[1:]), first.stride(), first.storage_offset())


def merged_inputs(trace: Trace) -> list[list[int]]:
    """For each merged layer, the positions of its weights, and then of its biases, among the trace's inputs."""
    positions = {id(var): position for position, var in enumerate(trace.inputs)}
    groups: list[list[int]] = []
    for op in trace.ops:
        if str(op.target) == MERGED_LINEAR:
            for tensors in op.args[1:3]:
                if tensors and all(id(var) in positions for var in tensors):
                    groups.append([positions[id(var)] for var in tensors])
    return groups


def place_together(tensors: Sequence[torch.Tensor]) -> bool:
    """Moves tensors behind one another in memory, without making others of them; whether they lie so now.

    Left where they are: tensors that are no parameters, and those whose memory others use as well.
    """
    if merged(tensors) is not None:
        return True
    if any(not _may_move(tensor) for tensor in tensors) or len({t.data_ptr() for t in tensors}) < len(tensors):
        return False
    with torch.no_grad():
        together = torch.cat([tensor.detach() for tensor in tensors])
        start = 0
        for tensor in tensors:
            tensor.data = together[start : start + tensor.shape[0]]
            start += tensor.shape[0]
    return True


def _may_move(tensor: torch.Tensor) -> bool:
    if type(tensor) is not torch.nn.Parameter or tensor.is_inference() or not tensor.is_contiguous():
        return False
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return is_whole and not _torch_compat.is_storage_shared(tensor)


def separate_projections(model: torch.nn.Module) -> int:
    """Gives every parameter of the model memory of its own again; returns how many were moved."""
    moved = 0
    for parameter in model.parameters():
        if parameter.untyped_storage().nbytes() > parameter.numel() * parameter.element_size():
            parameter.data = parameter.detach().clone()
            moved += 1
    return moved
