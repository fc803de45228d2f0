"""A matrix as e4m3 with a scale for each row, and what makes the matrix: RMSNorm, or an activation times a gate.

    y     = x                                                     no producer
    y     = x * weight / sqrt(mean(x^2) + eps)                    RMSNorm
    y     = act(x) * up                                           gated activation
    scale = max |y of the row| / 448; 1 for a row of zeros
    codes = e4m3(y / scale), y rounded to x's dtype               [R, C]

One program computes a row and holds it in registers: y is never written.  A row with an infinity or a NaN becomes NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from thunder.kernels.activation import activate
from thunder.kernels.launch import LONGEST_ROW, as_rows, warps_of_row
from thunder.kernels.machine_code import launch_kernel

MOST = 448.0


@triton.jit
def _quantize_rows_kernel(
    x_ptr, other_ptr, codes_ptr, scales_ptr, C, x_stride, other_stride, eps,
    IS_NORM: tl.constexpr, IS_GATE: tl.constexpr, ACTIVATION: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    y = tl.load(x_ptr + row * x_stride + c, mask=c < C, other=0.0).to(tl.float32)
    if IS_NORM:
        y *= tl.rsqrt(tl.sum(y * y, axis=0) / C + eps)
        y *= tl.load(other_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    if IS_GATE:
        y = activate(y, ACTIVATION)
        y *= tl.load(other_ptr + row * other_stride + c, mask=c < C, other=0.0).to(tl.float32)
    y = y.to(x_ptr.dtype.element_ty).to(tl.float32)
    # Magnitudes order as their bits do; NaN is above all.
    most = tl.max(y.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0).to(tl.float32, bitcast=True)
    scale = tl.where(most == 0.0, 1.0, most / MOST)
    tl.store(scales_ptr + row, scale)
    y = tl.minimum(y / scale, MOST, propagate_nan=tl.PropagateNan.ALL)
    y = tl.maximum(y, -MOST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(codes_ptr + row * C + c, y.to(tl.float8e4nv).to(tl.uint8, bitcast=True), mask=c < C)


def holds(x: torch.Tensor) -> bool:
    """Whether a program holds a row of x."""
    return 0 < x.shape[-1] <= LONGEST_ROW


def launch(
    x: torch.Tensor, norm_weight: torch.Tensor | None, eps: float, up: torch.Tensor | None, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the kernel on x [..., C]; at most one of norm_weight [C] and up [..., C] is given.

    Returns:
        codes: uint8 [..., C]; scales: float32 [..., 1].
    """
    rows = as_rows(x)
    others = rows if up is None else as_rows(up)
    width = rows.shape[1]
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    launch_kernel(_quantize_rows_kernel, (rows.shape[0],),
        rows, others if norm_weight is None else norm_weight.contiguous(), codes, scales, width, rows.stride(0),
        others.stride(0), eps, IS_NORM=norm_weight is not None, IS_GATE=up is not None, ACTIVATION=activation,
        MOST=MOST, BLOCK=block, num_warps=warps_of_row(block),
    )  # fmt: skip
    return codes, scales
