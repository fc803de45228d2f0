"""A linear layer on a few to some hundred rows whose weight is read in 4, 6 or 8 bits.

    out[m, n] = bias[n] + sum_k x[m, k] * weight[n, k]
    weight = (number(codes) - zero) * scale, rounded to x's dtype where groups are smaller than a step

    x: [M, K]    codes: uint8 [N, K * bits / 8]    out: [M, N]

A program computes a tile [BLOCK_N, BLOCK_M] of the transposed result: codes are decoded in registers, where matrix
instructions take their left side from.  Codes that share a byte go to products of their own (x of even and of odd
columns, read as pairs), so that nothing is rearranged.  Scales of whole rows are applied to the sums, those of groups
that fill a step to the sums of the step.

Four bytes are decoded at once, by instructions for pairs of 16-bit floats (`PAIRS`, see `pair_decoding`).  Formats of
6 bits, NF4, and x of 32 bits are decoded one number at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import begins_early, is_interpreted
from thunder.kernels.machine_code import launch_kernel
from thunder.precision.formats import Format
from thunder.precision.kernels.decode import describe, number_table, scale_value, unit_value
from thunder.precision.kernels.gemv import Weight, aligned
from thunder.precision.kernels.pair_decoding import pair_decoding


@triton.jit
def _decoded(
    low, high, scale, zero, table_ptr, AT: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, HAS_ZEROS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """The numbers of code AT of each unit, float32; without the format's factor."""
    value = unit_value(low, high, table_ptr, AT, KIND, BITS, MANTISSA, FLIP)
    if HAS_ZEROS:
        value -= zero
    if SCALED:
        value *= scale
    return value


@triton.jit
def _decoded_in_pairs(codes, scale, zero, x_ptr, PAIRS: tl.constexpr, BITS: tl.constexpr, FIXED: tl.constexpr):
    """(numbers of the low, of the high half of each byte), or twice those of bytes: of 16 bits, with their scales.

    FIXED: what a code of 0 without a zero point is decoded to; the zero point is added to it.
    """
    offset = (-(zero + FIXED)).to(x_ptr.dtype.element_ty)
    scale = scale.to(offset.dtype)
    if BITS == 8:
        numbers = tl.inline_asm_elementwise(
            PAIRS, "=r,=r,r,r,r,r,r", [codes, offset, scale], dtype=offset.dtype, is_pure=True, pack=4
        )
        return numbers, numbers
    else:
        return tl.inline_asm_elementwise(
            PAIRS, "=r,=r,=r,=r,r,r,r,r,r", [codes, offset, scale], dtype=(offset.dtype, offset.dtype), is_pure=True,
            pack=4,
        )  # fmt: skip


@triton.jit
def _columns(x_ptr, m, u, M, UNITS: tl.constexpr, x_stride, CODES: tl.constexpr, AT: tl.constexpr):
    """x [units, rows] of the columns that code AT of each unit is multiplied with."""
    mask = (u < UNITS)[:, None] & (m < M)[None, :]
    return tl.load(x_ptr + m.to(tl.int64)[None, :] * x_stride + (u * CODES + AT)[:, None], mask=mask, other=0.0)


@triton.jit
def _column_pairs(x_ptr, m, u, M, UNITS: tl.constexpr, x_stride):
    """x [units, rows] of even and of odd columns, from pairs of 16-bit numbers."""
    mask = (u < UNITS)[:, None] & (m < M)[None, :]
    rows = (x_ptr + m.to(tl.int64) * x_stride).to(tl.pointer_type(tl.int32))
    pairs = tl.load(rows[None, :] + u[:, None], mask=mask, other=0)
    even = pairs.to(tl.int16).to(x_ptr.dtype.element_ty, bitcast=True)
    odd = (pairs >> 16).to(tl.int16).to(x_ptr.dtype.element_ty, bitcast=True)
    return even, odd


@triton.jit
def _quantized_gemm_kernel(
    x_ptr, codes_ptr, scales_ptr, zeros_ptr, tensor_scale_ptr, bias_ptr, table_ptr, out_ptr, M, N, x_stride, factor,
    steps, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_U: tl.constexpr, KIND: tl.constexpr,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr,
    SCALE_ROWS: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    WIDE: tl.constexpr, PAIRS: tl.constexpr, FIXED: tl.constexpr, SPLIT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 1 if BITS == 8 else (2 if BITS == 4 else 4)
    UNITS: tl.constexpr = K // CODES
    ROW_BYTES: tl.constexpr = K * BITS // 8
    GROUPS: tl.constexpr = K // GROUP
    GROUP_UNITS: tl.constexpr = GROUP // CODES
    # Scales of a step are one for each row, or a few of them for parts of the step.
    OF_STEP: tl.constexpr = GROUP < K and GROUP_UNITS % BLOCK_U == 0
    WITHIN: tl.constexpr = GROUP < K and not OF_STEP
    PARTS: tl.constexpr = BLOCK_U // GROUP_UNITS if WITHIN else 1
    kind = tl.float32 if WIDE else x_ptr.dtype.element_ty
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
    rows = codes_ptr + n.to(tl.int64)[:, None] * ROW_BYTES
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()  # the kernel that adds up the parts waits for the end of this one
    first_unit = tl.program_id(2) * steps * BLOCK_U
    end = tl.minimum(first_unit + steps * BLOCK_U, UNITS)
    for start in range(first_unit, end, BLOCK_U):
        u = start + tl.arange(0, BLOCK_U)
        mask = (n < N)[:, None] & (u < UNITS)[None, :]
        if BITS == 6:
            low = tl.load(rows.to(tl.pointer_type(tl.uint16)) + u[None, :], mask=mask, other=0)
            high = tl.load(rows + K // 2 + u[None, :], mask=mask, other=0)
        else:
            low = tl.load(rows + u[None, :], mask=mask, other=0)
            high = low
        scale = tl.full([BLOCK_N, PARTS], 1.0, tl.float32)
        zero = tl.zeros([BLOCK_N, PARTS], tl.float32)
        if GROUP < K:
            part = start // GROUP_UNITS + tl.arange(0, PARTS)
            places = scale_row[:, None] * GROUPS + part[None, :]
            part_mask = (n < N)[:, None] & (part < GROUPS)[None, :]
            scale = scale_value(tl.load(scales_ptr + places, mask=part_mask, other=0), SCALE)
            if HAS_ZEROS:
                zero = tl.load(zeros_ptr + places, mask=part_mask, other=0).to(tl.float32)
        each_scale = tl.full([BLOCK_N, BLOCK_U], 1.0, tl.float32)
        each_zero = tl.zeros([BLOCK_N, BLOCK_U], tl.float32)
        if WITHIN:
            each_scale = tl.reshape(
                tl.broadcast_to(scale[:, :, None], [BLOCK_N, PARTS, GROUP_UNITS]), [BLOCK_N, BLOCK_U]
            )
        if HAS_ZEROS:
            if WITHIN:
                each_zero = tl.reshape(
                    tl.broadcast_to(zero[:, :, None], [BLOCK_N, PARTS, GROUP_UNITS]), [BLOCK_N, BLOCK_U]
                )
            else:
                each_zero += zero
        products = tl.zeros([BLOCK_N, BLOCK_M], tl.float32) if OF_STEP else total
        if PAIRS == "":
            for i in tl.static_range(CODES):
                value = _decoded(
                    low, high, each_scale * factor, each_zero, table_ptr, i, KIND, BITS, MANTISSA, FLIP, HAS_ZEROS,
                    WITHIN,
                )  # fmt: skip
                x = _columns(x_ptr, m, u, M, UNITS, x_stride, CODES, i)
                products = tl.dot(value.to(kind), x.to(kind), products, input_precision="ieee")
        else:
            first, second = _decoded_in_pairs(low, each_scale, each_zero, x_ptr, PAIRS, BITS, FIXED)
            if BITS == 8:
                products = tl.dot(first, _columns(x_ptr, m, u, M, UNITS, x_stride, 1, 0), products)
            else:
                even, odd = _column_pairs(x_ptr, m, u, M, UNITS, x_stride)
                products = tl.dot(first, even, products)
                products = tl.dot(second, odd, products)
        if OF_STEP:
            total += products * scale
        else:
            total = products
    row_scale = tl.zeros([BLOCK_N], tl.float32) + (1.0 if WITHIN and PAIRS == "" else factor)
    if GROUP == K:
        row_scale *= scale_value(tl.load(scales_ptr + scale_row, mask=n < N, other=0), SCALE)
    if HAS_TENSOR_SCALE:
        row_scale *= tl.load(tensor_scale_ptr)
    total *= row_scale[:, None]
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    out_mask = (n < N)[:, None] & (m < M)[None, :]
    if SPLIT:
        out_ptr += tl.program_id(2).to(tl.int64) * M * N
    places = out_ptr + m.to(tl.int64)[None, :] * N + n[:, None]
    tl.store(places, total.to(out_ptr.dtype.element_ty), mask=out_mask)


@triton.jit
def _add_parts_kernel(parts_ptr, bias_ptr, out_ptr, SIZE, N, splits, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
                      EARLY: tl.constexpr):  # fmt: skip
    """out[i] = bias[i % N] + sum_s parts[s, i]"""
    if EARLY:
        tl.extra.cuda.gdc_wait()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    places = parts_ptr + i
    for _ in range(splits):
        total += tl.load(places, mask=i < SIZE, other=0.0)
        places += SIZE
    if HAS_BIAS:
        total += tl.load(bias_ptr + i % N, mask=i < SIZE, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, total.to(out_ptr.dtype.element_ty), mask=i < SIZE)


PROGRAMS, LARGE_PROGRAMS = 420, 105
"""How many an H100 is best divided among, of four warps and of eight."""


@dataclass(frozen=True)
class Plan:
    """A program's tile: outputs, rows of x, units of codes a step; warps and stages of the pipeline.

    Attributes:
        splits: programs that share a tile: each sums over a part of the columns, and another kernel adds the parts.
    """

    block_n: int
    block_m: int
    block_u: int
    warps: int
    stages: int
    splits: int = 1


STEP_UNITS = {8: 128, 4: 64, 6: 32}
"""Units of codes a step, by their bits."""


def serves(format: Format, columns: int, dtype: torch.dtype) -> bool:
    """Whether codes of the format are decoded in pairs, and its groups fill steps or divide them."""
    units = (format.columns or columns) * format.bits // 8
    fits = format.columns == 0 or units % STEP_UNITS[format.bits] == 0 or STEP_UNITS[format.bits] % units == 0
    return fits and pair_decoding(format, dtype, False) is not None


def choose_plan(m: int, n: int, k: int, bits: int) -> Plan:
    """For x [m, k] and N = `n`: the fastest of a sweep on an H100."""
    units = STEP_UNITS[bits]
    steps = triton.cdiv(k * bits // 8 if bits != 6 else k // 4, units)
    block_n, block_m, warps, stages = (64, max(16, triton.next_power_of_2(m)), 4, 4) if m <= 64 else (128, 128, 8, 3)
    tiles = triton.cdiv(n, block_n) * triton.cdiv(m, block_m)
    programs = PROGRAMS if m <= 64 else LARGE_PROGRAMS
    return Plan(block_n, block_m, units, warps, stages, max(1, min(programs // tiles, steps // 4)))


def launch(x: torch.Tensor, weight: Weight, format: str, plan: Plan | None = None) -> torch.Tensor:
    """Runs the kernel on x [M, K], elements of a row side by side; the result is [M, N] of x's dtype."""
    (m, k), n = x.shape, weight.codes.shape[0]
    described = describe(format, k)
    plan = plan or choose_plan(m, n, k, described.bits)
    group_units = described.group * described.bits // 8
    is_within = described.group < k and group_units % plan.block_u != 0
    decoding = pair_decoding(Format.parse(format), x.dtype, is_within) if not is_interpreted() else None
    if decoding is not None and described.bits == 4:
        x = x.contiguous() if x.stride(0) % 2 else aligned(x)
    factor = 1.0 if decoding is not None else described.factor
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    units = k * described.bits // (8 if described.bits != 6 else 24)
    steps = triton.cdiv(triton.cdiv(units, plan.block_u), plan.splits)
    splits = triton.cdiv(triton.cdiv(units, plan.block_u), steps)
    early = splits > 1 and begins_early(x.device)
    parts = torch.empty((splits, m, n), dtype=torch.float32, device=x.device) if splits > 1 else out
    codes, bias = weight.codes, weight.bias
    launch_kernel(_quantized_gemm_kernel, (triton.cdiv(n, plan.block_n), triton.cdiv(m, plan.block_m), splits),
        x, codes, weight.scales, codes if weight.zeros is None else weight.zeros,
        codes if weight.tensor_scale is None else weight.tensor_scale, x if bias is None else bias,
        number_table(x.device) if described.kind == 2 else x, parts, m, n, x.stride(0),
        factor * (256.0 if described.scale == 2 else 1.0), steps,
        K=k, BLOCK_M=plan.block_m, BLOCK_N=plan.block_n, BLOCK_U=plan.block_u, **described.constants(),
        HAS_ZEROS=weight.zeros is not None, HAS_TENSOR_SCALE=weight.tensor_scale is not None,
        HAS_BIAS=bias is not None and splits == 1, WIDE=is_interpreted() or x.dtype is torch.float32,
        PAIRS="" if decoding is None else decoding.text, FIXED=0.0 if decoding is None else decoding.fixed,
        SPLIT=splits > 1, EARLY=early, num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    if splits > 1:
        block = 512
        launch_kernel(_add_parts_kernel, (triton.cdiv(m * n, block),),
            parts, parts if bias is None else bias, out, m * n, n, splits, HAS_BIAS=bias is not None, BLOCK=block,
            EARLY=early, num_warps=4, launch_pdl=early,
        )  # fmt: skip
    return out
