"""Whether a program can be captured in a CUDA graph, from its trace.

A graph repeats kernels with the arguments that they had.  What the host decides or reads while the program runs
(tensors on the CPU, sizes that depend on values) cannot be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from thunder.trace import Op, Trace, Var
from thunder.trace.trace import regions_of_op

# Operators that wait for the device, because the size of their result or their path depends on values.
_WAITING = frozenset(
    {
        "nonzero", "nonzero_numpy", "argwhere", "masked_select", "unique", "_unique2", "unique_dim",
        "unique_consecutive", "item", "tolist", "_local_scalar_dense", "bincount", "repeat_interleave_Tensor",
        "is_nonzero", "equal", "__bool__", "__int__", "__float__", "__index__",
    }
)  # fmt: skip
_INDEXING = frozenset({"index_put", "index_put_", "index", "_index_put_impl_", "__setitem__", "__getitem__"})


def why_not_capturable(trace: Trace, device_type: str = "cuda") -> str | None:
    """Why the program cannot be captured, or None when nothing stands against it."""
    devices: set[torch.device] = set()
    for var in trace.inputs:
        if isinstance(var.value, torch.Tensor):
            if var.value.device.type != device_type:
                return f"its input {var.name} is on {var.value.device}"
            devices.add(var.value.device)
    for op in _operations(trace):
        reason = _reason(op, device_type)
        if reason is not None:
            where = f" ({op.location.filename}:{op.location.line})" if op.location is not None else ""
            return reason + where
        devices |= {var.value.device for var in op.outputs() if isinstance(var.value, torch.Tensor)}
    devices = {device for device in devices if device.type == device_type}
    if not devices:
        return f"nothing in it is computed on a {device_type} device"
    if len(devices) > 1:
        return f"it works on several devices: {', '.join(sorted(map(str, devices)))}"
    return None


def _operations(trace: Trace) -> Iterator[Op]:
    for op in trace.ops:
        regions = list(regions_of_op(op))
        for region in regions:
            yield from _operations(region.trace)
        if not regions:
            yield op


def _reason(op: Op, device_type: str) -> str | None:
    name = _operator_name(op)
    if name in _WAITING:
        return f"{name} waits for the device"
    inputs = [var for var in op.inputs() if isinstance(var.value, torch.Tensor)]
    if name in _INDEXING and any(var.value.dtype in (torch.bool, torch.uint8) for var in inputs[1:]):
        if not _fills_with_one_number(op):
            return f"{name} with a mask waits for the device"
    for var in op.outputs():
        # Single numbers that come from no tensor are constants: kernels take them as arguments.
        if isinstance(var.value, torch.Tensor) and var.value.device.type != device_type:
            if inputs or var.value.dim() > 0:
                return f"{name} computes on {var.value.device}"
    for argument in _constants((op.args, op.kwargs)):
        if argument.device.type != device_type and (argument.dim() > 0 or "copy" in name or name == "to"):
            return f"{name} reads a constant on {argument.device}"
    return None


def _fills_with_one_number(op: Op) -> bool:
    """Whether what is written by index is a single number: PyTorch then selects in place of finding positions."""
    value = op.args[2] if len(op.args) > 2 else None
    value = value.value if isinstance(value, Var) else value
    return isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def _operator_name(op: Op) -> str:
    packet = getattr(op.target, "overloadpacket", None)
    if packet is None:
        return op.name
    name: str = packet.__name__
    return "repeat_interleave_Tensor" if op.name == "repeat_interleave.Tensor" else name


def _constants(structure: object) -> Iterator[torch.Tensor]:
    if isinstance(structure, Var):
        return
    if isinstance(structure, torch.Tensor):
        yield structure
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            yield from _constants(item)
    elif isinstance(structure, dict):
        yield from _constants(tuple(structure.values()))
