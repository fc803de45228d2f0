"""Functions that generated kernels call."""

from __future__ import annotations

import triton
import triton.language as tl

# Triton's interpreter, which runs kernels on the CPU, cannot call the device's mathematical library.
if triton.knobs.runtime.interpret:
    from thunder.executors.triton_fusion import interpreted_math as device_math
else:
    from triton.language.extra import libdevice as device_math  # type: ignore[no-redef]

__all__ = ["device_math", "row_maximum", "row_minimum"]


@triton.jit
def _larger(left, right):
    return tl.maximum(left, right, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _smaller(left, right):
    return tl.minimum(left, right, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_maximum(values, axis: tl.constexpr):
    """The largest value of each row; NaN where there is one."""
    return tl.reduce(values, axis, _larger)


@triton.jit
def row_minimum(values, axis: tl.constexpr):
    """The smallest value of each row; NaN where there is one."""
    return tl.reduce(values, axis, _smaller)
