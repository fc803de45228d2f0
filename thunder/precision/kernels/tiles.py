"""Dequantises a whole weight, in one pass over memory.

weight[n, k] = (number(codes[n, k]) - zero[n, k / g]) * scale[n / r, k / g] * tensor_scale

codes: uint8 [N, K * bits / 8]    weight: [N, K] of `dtype`
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from thunder.kernels.machine_code import launch_kernel
from thunder.precision.kernels.decode import describe, number_table, scale_value, unit_value


@triton.jit
def _dequantize_kernel(
    codes_ptr, scales_ptr, zeros_ptr, tensor_scale_ptr, table_ptr, out_ptr, N, factor,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_U: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr,
    HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 1 if BITS == 8 else (2 if BITS == 4 else 4)
    UNITS: tl.constexpr = K // CODES
    ROW_BYTES: tl.constexpr = K * BITS // 8
    GROUPS: tl.constexpr = K // GROUP
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    u = tl.program_id(1) * BLOCK_U + tl.arange(0, BLOCK_U)
    mask = (n < N)[:, None] & (u < UNITS)[None, :]
    rows = codes_ptr + n.to(tl.int64)[:, None] * ROW_BYTES
    scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
    if BITS == 6:
        low = tl.load(rows.to(tl.pointer_type(tl.uint16)) + u[None, :], mask=mask, other=0)
        high = tl.load(rows + K // 2 + u[None, :], mask=mask, other=0)
    else:
        low = tl.load(rows + u[None, :], mask=mask, other=0)
        high = low
    places = scale_row[:, None] * GROUPS + ((u * CODES) // GROUP)[None, :]
    scale = scale_value(tl.load(scales_ptr + places, mask=mask, other=0), SCALE) * factor
    if HAS_TENSOR_SCALE:
        scale *= tl.load(tensor_scale_ptr)
    zero = scale * 0.0
    if HAS_ZEROS:
        zero = tl.load(zeros_ptr + places, mask=mask, other=0).to(tl.float32)
    kind = out_ptr.dtype.element_ty
    first = ((unit_value(low, high, table_ptr, 0, KIND, BITS, MANTISSA, FLIP) - zero) * scale).to(kind)
    if CODES >= 2:
        second = ((unit_value(low, high, table_ptr, 1, KIND, BITS, MANTISSA, FLIP) - zero) * scale).to(kind)
        if CODES == 4:
            third = ((unit_value(low, high, table_ptr, 2, KIND, BITS, MANTISSA, FLIP) - zero) * scale).to(kind)
            fourth = ((unit_value(low, high, table_ptr, 3, KIND, BITS, MANTISSA, FLIP) - zero) * scale).to(kind)
            first, second = tl.interleave(first, third), tl.interleave(second, fourth)
        first = tl.interleave(first, second)
    k = tl.program_id(1) * BLOCK_U * CODES + tl.arange(0, BLOCK_U * CODES)
    out = out_ptr + n.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(out, first, mask=(n < N)[:, None] & (k < K)[None, :])


def launch(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    tensor_scale: torch.Tensor | None,
    format: str,
    columns: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Runs the kernel; the result is [N, columns] of `dtype`."""
    n = codes.shape[0]
    described = describe(format, columns)
    out = torch.empty((n, columns), dtype=dtype, device=codes.device)
    units = columns * described.bits // 8 if described.bits != 6 else columns // 4
    block_u = min(triton.next_power_of_2(units), 256)
    block_n = 8
    launch_kernel(_dequantize_kernel, (triton.cdiv(n, block_n), triton.cdiv(units, block_u)),
        codes, scales, codes if zeros is None else zeros, codes if tensor_scale is None else tensor_scale,
        number_table(codes.device) if described.kind == 2 else codes, out, n,
        described.factor * (256.0 if described.scale == 2 else 1.0),
        K=columns, BLOCK_N=block_n, BLOCK_U=block_u, **described.constants(), HAS_ZEROS=zeros is not None,
        HAS_TENSOR_SCALE=tensor_scale is not None, num_warps=4,
    )  # fmt: skip
    return out
