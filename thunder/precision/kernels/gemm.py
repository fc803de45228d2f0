"""A linear layer on a few to some hundred rows whose weight is read in 4, 6 or 8 bits.

    out[m, n] = bias[n] + sum_k x[m, k] * weight[n, k]
    weight = (number(codes) - zero) * scale, rounded to x's dtype where scales differ within a row

    x: [M, K]    codes: uint8 [N, K * bits / 8]    out: [M, N]

A program computes a tile [BLOCK_N, BLOCK_M] of the transposed result: codes are decoded in registers, where matrix
instructions take their left side from, and codes that share a byte go to products of their own (`x` of even and of odd
columns), so that nothing is rearranged.  Scales of whole rows are applied to the sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import is_interpreted
from thunder.kernels.machine_code import launch_kernel
from thunder.precision.kernels.decode import describe, number_table, scale_value, unit_value
from thunder.precision.kernels.gemv import Weight


@triton.jit
def _quantized_gemm_kernel(
    x_ptr, codes_ptr, scales_ptr, zeros_ptr, tensor_scale_ptr, bias_ptr, table_ptr, out_ptr, M, N, x_stride, factor,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_U: tl.constexpr, KIND: tl.constexpr,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr,
    SCALE_ROWS: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 1 if BITS == 8 else (2 if BITS == 4 else 4)
    UNITS: tl.constexpr = K // CODES
    ROW_BYTES: tl.constexpr = K * BITS // 8
    GROUPS: tl.constexpr = K // GROUP
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    row = n.to(tl.int64)[:, None]
    scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
    rows = codes_ptr + row * ROW_BYTES
    kind = tl.float32 if WIDE else x_ptr.dtype.element_ty
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, UNITS, BLOCK_U):
        u = start + tl.arange(0, BLOCK_U)
        mask = (n < N)[:, None] & (u < UNITS)[None, :]
        if BITS == 6:
            low = tl.load(rows.to(tl.pointer_type(tl.uint16)) + u[None, :], mask=mask, other=0)
            high = tl.load(rows + K // 2 + u[None, :], mask=mask, other=0)
        else:
            low = tl.load(rows + u[None, :], mask=mask, other=0)
            high = low
        if GROUP < K:
            places = scale_row[:, None] * GROUPS + ((u * CODES) // GROUP)[None, :]
            scale = scale_value(tl.load(scales_ptr + places, mask=mask, other=0), SCALE) * factor
            if HAS_ZEROS:
                zero = tl.load(zeros_ptr + places, mask=mask, other=0).to(tl.float32)
        for i in tl.static_range(CODES):
            value = unit_value(low, high, table_ptr, i, KIND, BITS, MANTISSA, FLIP)
            if GROUP < K:
                if HAS_ZEROS:
                    value -= zero
                value *= scale
            x_mask = (u < UNITS)[:, None] & (m < M)[None, :]
            x = tl.load(x_ptr + m.to(tl.int64)[None, :] * x_stride + (u * CODES + i)[:, None], mask=x_mask, other=0.0)
            total = tl.dot(value.to(kind), x.to(kind), total, input_precision="ieee")
    if GROUP == K:
        scale = scale_value(tl.load(scales_ptr + scale_row, mask=n < N, other=0), SCALE) * factor
        total *= scale[:, None]
    if HAS_TENSOR_SCALE:
        total *= tl.load(tensor_scale_ptr)
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    out_mask = (n < N)[:, None] & (m < M)[None, :]
    places = out_ptr + m.to(tl.int64)[None, :] * N + n[:, None]
    tl.store(places, total.to(out_ptr.dtype.element_ty), mask=out_mask)


@dataclass(frozen=True)
class Plan:
    """A program's tile: outputs, rows of x, units of codes a step; warps and stages of the pipeline."""

    block_n: int
    block_m: int
    block_u: int
    warps: int
    stages: int


def choose_plan(m: int, n: int, k: int, bits: int) -> Plan:
    """For x [m, k] and N = `n`."""
    units = {8: 128, 4: 64, 6: 32}[bits]
    if m <= 64:
        return Plan(64 if n > 4096 else 32, max(16, triton.next_power_of_2(m)), units, 4, 4)
    return Plan(128, 128 if m > 64 else 64, units, 8, 3)


def launch(x: torch.Tensor, weight: Weight, format: str, plan: Plan | None = None) -> torch.Tensor:
    """Runs the kernel on x [M, K], elements of a row side by side; the result is [M, N] of x's dtype."""
    (m, k), n = x.shape, weight.codes.shape[0]
    described = describe(format, k)
    plan = plan or choose_plan(m, n, k, described.bits)
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    codes = weight.codes
    launch_kernel(_quantized_gemm_kernel, (triton.cdiv(n, plan.block_n), triton.cdiv(m, plan.block_m)),
        x, codes, weight.scales, codes if weight.zeros is None else weight.zeros,
        codes if weight.tensor_scale is None else weight.tensor_scale, x if weight.bias is None else weight.bias,
        number_table(x.device) if described.kind == 2 else x, out, m, n, x.stride(0),
        described.factor * (256.0 if described.scale == 2 else 1.0),
        K=k, BLOCK_M=plan.block_m, BLOCK_N=plan.block_n, BLOCK_U=plan.block_u, **described.constants(),
        HAS_ZEROS=weight.zeros is not None, HAS_TENSOR_SCALE=weight.tensor_scale is not None,
        HAS_BIAS=weight.bias is not None, WIDE=is_interpreted() or x.dtype is torch.float32, num_warps=plan.warps,
        num_stages=plan.stages,
    )  # fmt: skip
    return out
