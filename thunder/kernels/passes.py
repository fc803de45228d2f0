"""The passes that put kernels into a torch-level trace, in order.

Input: the acquired program, after the user's transforms.  Output: the program with calls of kernels.  Each pass can
be switched off by name (`thunder.trace.disabled_passes`), each kernel with `disable_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable

from thunder.kernels.attention import improve_attention
from thunder.kernels.merge_projections import merge_projections
from thunder.kernels.registry import may_need_kernels
from thunder.kernels.substitute import substitute_kernels
from thunder.kernels.use_gemv import use_gemv
from thunder.trace import Trace, Var

KERNEL_PASSES: tuple[Callable[[Trace], Trace], ...] = (
    improve_attention,
    substitute_kernels,
    merge_projections,
    use_gemv,
)


def device_types(trace: Trace) -> set[str]:
    """Types of the devices of the trace's inputs."""
    return {var.value.device.type for var in trace.inputs if isinstance(var, Var) and var.is_tensor}


def use_kernels(trace: Trace) -> list[Trace]:
    """Runs the passes; returns the trace after each one that changed it."""
    stages: list[Trace] = []
    if not may_need_kernels(trace.ops, device_types(trace)):
        return stages
    for kernel_pass in KERNEL_PASSES:
        after = kernel_pass(trace)
        if after is not trace:
            stages.append(after)
            trace = after
    return stages
