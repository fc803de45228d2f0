"""A matrix as 8-bit floating point with one scale, row by row and column by column, in two passes over memory.

    most    = max |x|                                      first pass, unless it is given
    scale   = most / largest of the element; 1 when most is 0
    codes   = element(x / scale)                           [R, C], saturating
    columns = codes transposed, filled up with zeros       [C, R rounded up to 16]

Matrix instructions want what is summed over side by side: `codes` is multiplied along C, `columns` along R.
An infinity or a NaN in x gives NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import multiprocessor_count
from thunder.kernels.machine_code import launch_kernel

LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}
MULTIPLE = 16


@triton.jit
def _most_kernel(x_ptr, most_ptr, SIZE, BLOCK: tl.constexpr):
    largest = tl.zeros([BLOCK], tl.int32)
    for start in range(tl.program_id(0) * BLOCK, SIZE, tl.num_programs(0) * BLOCK):
        k = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + k, mask=k < SIZE, other=0.0).to(tl.float32)
        # Magnitudes order as their bits do; NaN is above all.
        largest = tl.maximum(largest, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    tl.atomic_max(most_ptr, tl.max(largest, axis=0))


@triton.jit
def _cast_kernel(
    x_ptr, most_ptr, codes_ptr, columns_ptr, scale_ptr, R, C, column_length,
    ELEMENT: tl.constexpr, MOST: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    most = tl.load(most_ptr)
    scale = tl.where(most == 0.0, 1.0, most / MOST)
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(scale_ptr, scale)
    place = r.to(tl.int64)[:, None] * C + c[None, :]
    mask = (r < R)[:, None] & (c < C)[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32) / scale
    x = tl.minimum(x, MOST, propagate_nan=tl.PropagateNan.ALL)
    x = tl.maximum(x, -MOST, propagate_nan=tl.PropagateNan.ALL)
    if ELEMENT == "e4m3":
        codes = x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        codes = x.to(tl.float8e5).to(tl.uint8, bitcast=True)
    tl.store(codes_ptr + place, codes, mask=mask)
    if TRANSPOSED:
        column_place = c.to(tl.int64)[:, None] * column_length + r[None, :]
        tl.store(columns_ptr + column_place, tl.trans(codes), mask=(c < C)[:, None] & (r < column_length)[None, :])


def launch(
    x: torch.Tensor, most: torch.Tensor | None, element: str, transposed: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs the kernels.

    Args:
        x: [R, C], 16 or 32 bits.
        most: float32 [], the largest magnitude to be provided for; None for that of x.
        element: "e4m3" or "e5m2".
        transposed: whether `columns` is wanted; it is empty otherwise.

    Returns:
        codes, columns: uint8; scale: float32 [].
    """
    x = x.contiguous()
    rows, width = x.shape
    length = triton.cdiv(rows, MULTIPLE) * MULTIPLE
    codes = torch.empty((rows, width), dtype=torch.uint8, device=x.device)
    columns = torch.empty((width, length) if transposed else (0,), dtype=torch.uint8, device=x.device)
    scale = torch.empty((), dtype=torch.float32, device=x.device)
    if most is None:
        bits = torch.zeros((), dtype=torch.int32, device=x.device)
        block = 4096
        programs = min(triton.cdiv(x.numel(), block), 8 * multiprocessor_count(x.device))
        launch_kernel(_most_kernel, (programs,), x, bits, x.numel(), BLOCK=block, num_warps=8)
        most = bits.view(torch.float32)
    launch_kernel(_cast_kernel, (triton.cdiv(length, 64), triton.cdiv(width, 128)),
        x, most, codes, columns if transposed else codes, scale, rows, width, length, ELEMENT=element,
        MOST=LARGEST[element], TRANSPOSED=transposed, BLOCK_R=64, BLOCK_C=128, num_warps=8,
    )  # fmt: skip
    return codes, columns, scale
