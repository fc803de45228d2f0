"""A linear layer on few rows whose weight is read in 4, 6 or 8 bits, at the speed of memory.

    out[m, n] = bias[n] + sum_k x[m, k] * number(codes[n, k]) * scale[n / r, k / g] * tensor_scale
    number(code) - zero[n, k / g] for formats with a zero point

    x: [M, K]    codes: uint8 [N, K * bits / 8], read as words of 32 bits    bias: [N]    out: [M, N]

A program holds a row of x in registers, as float32, and goes through blocks of BLOCK_N rows of the weight; sums are
float32.  Decoding costs two to four instructions a number (`decode.py`); a scale is applied to the sum of a word's
products.  Up to three weights of the same format are read by one launch: the results lie behind one another in `out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import as_rows, begins_early, multiprocessor_count
from thunder.precision.kernels.decode import describe, number_table, scale_value, word_pair

MOST_WEIGHTS = 3


@triton.jit
def _load_x(x_ptr, w, AT: tl.constexpr, K: tl.constexpr, CODES: tl.constexpr):
    """The numbers of x that stand beside code AT of each word: float32 [1, BLOCK_W]; 0 where there is none."""
    if AT < CODES:
        x = tl.load(x_ptr + w * CODES + AT, mask=w < K // CODES, other=0.0).to(tl.float32)
    else:
        x = tl.zeros([w.shape[0]], tl.float32)
    return x[None, :]


@triton.jit
def _rows_of_one_weight(
    x0, x1, x2, x3, x4, x5, x6, x7, sums, codes_ptr, scales_ptr, zeros_ptr, tensor_scale_ptr, bias_ptr, table_ptr,
    out_ptr, first, N, offset, factor,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr,
    HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """The program's blocks of rows of one weight, from `first` on."""
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    WORDS: tl.constexpr = K // CODES
    ROW_BYTES: tl.constexpr = K * BITS // 8
    GROUPS: tl.constexpr = K // GROUP
    w = tl.arange(0, BLOCK_W)
    group = ((w * CODES) // GROUP)[None, :]
    for block in range(first, tl.cdiv(N, BLOCK_N), tl.num_programs(0)):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = (n < N)[:, None] & (w < WORDS)[None, :]
        row = n.to(tl.int64)[:, None]
        scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
        words = (codes_ptr + row * ROW_BYTES).to(tl.pointer_type(tl.uint32))
        word = tl.load(words + w[None, :], mask=mask, other=0, eviction_policy="evict_first")
        high = word
        if BITS == 6:
            planes = (codes_ptr + row * ROW_BYTES + K // 2).to(tl.pointer_type(tl.uint16))
            both = tl.load(planes + w[None, :], mask=mask, other=0, eviction_policy="evict_first").to(tl.uint32)
            high = (both & 0xFF) | ((both & 0xFF00) << 8)
        if GROUP < K:
            places = scale_row[:, None] * GROUPS + group
            scale = scale_value(tl.load(scales_ptr + places, mask=mask, other=0), SCALE)
        if FLIP != 0:
            word = word ^ (FLIP * 0x01010101)
        a, b = word_pair(word, high, table_ptr, 0, KIND, BITS, MANTISSA)
        c, d = word_pair(word, high, table_ptr, 1, KIND, BITS, MANTISSA)
        if BITS == 8:
            total = x0 * a + x2 * b + x1 * c + x3 * d
        else:
            total = x0 * a + x4 * b + x1 * c + x5 * d
            a, b = word_pair(word, high, table_ptr, 2, KIND, BITS, MANTISSA)
            c, d = word_pair(word, high, table_ptr, 3, KIND, BITS, MANTISSA)
            total += x2 * a + x6 * b + x3 * c + x7 * d
        if KIND == 0:
            if HAS_ZEROS:
                zero = tl.load(zeros_ptr + places, mask=mask, other=0).to(tl.float32)
                total -= sums * (offset + zero)
            else:
                total -= sums * offset
        if GROUP < K:
            total *= scale
        result = tl.sum(total, axis=1) * factor
        if GROUP == K:
            result *= scale_value(tl.load(scales_ptr + scale_row, mask=n < N, other=0), SCALE)
        if HAS_TENSOR_SCALE:
            result *= tl.load(tensor_scale_ptr)
        if HAS_BIAS:
            result += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
        tl.store(out_ptr + n, result.to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def _quantized_gemv_kernel(
    x_ptr, table_ptr, out_ptr, x_stride, out_stride, factor, offset,
    codes0, scales0, zeros0, tensor_scale0, bias0, N0,
    codes1, scales1, zeros1, tensor_scale1, bias1, N1,
    codes2, scales2, zeros2, tensor_scale2, bias2, N2,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr,
    HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHTS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    first, programs = tl.program_id(0), tl.num_programs(0)
    if EARLY:
        # The launch overlaps with the end of the kernel before, which may write what is read here.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    x_ptr += tl.program_id(1) * x_stride
    out_ptr += tl.program_id(1) * out_stride
    w = tl.arange(0, BLOCK_W)
    x0, x1 = _load_x(x_ptr, w, 0, K, CODES), _load_x(x_ptr, w, 1, K, CODES)
    x2, x3 = _load_x(x_ptr, w, 2, K, CODES), _load_x(x_ptr, w, 3, K, CODES)
    x4, x5 = _load_x(x_ptr, w, 4, K, CODES), _load_x(x_ptr, w, 5, K, CODES)
    x6, x7 = _load_x(x_ptr, w, 6, K, CODES), _load_x(x_ptr, w, 7, K, CODES)
    sums = x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7
    _rows_of_one_weight(
        x0, x1, x2, x3, x4, x5, x6, x7, sums, codes0, scales0, zeros0, tensor_scale0, bias0, table_ptr, out_ptr, first,
        N0, offset, factor, K, BLOCK_N, BLOCK_W, KIND, BITS, MANTISSA, FLIP, SCALE, GROUP, SCALE_ROWS, HAS_ZEROS,
        HAS_TENSOR_SCALE, HAS_BIAS,
    )  # fmt: skip
    if WEIGHTS > 1:
        # The blocks of all weights are dealt out in turn.
        before = tl.cdiv(N0, BLOCK_N)
        _rows_of_one_weight(
            x0, x1, x2, x3, x4, x5, x6, x7, sums, codes1, scales1, zeros1, tensor_scale1, bias1, table_ptr,
            out_ptr + N0, (first + programs * before - before) % programs, N1, offset, factor, K, BLOCK_N, BLOCK_W,
            KIND, BITS, MANTISSA, FLIP, SCALE, GROUP, SCALE_ROWS, HAS_ZEROS, HAS_TENSOR_SCALE, HAS_BIAS,
        )  # fmt: skip
        if WEIGHTS > 2:
            before += tl.cdiv(N1, BLOCK_N)
            _rows_of_one_weight(
                x0, x1, x2, x3, x4, x5, x6, x7, sums, codes2, scales2, zeros2, tensor_scale2, bias2, table_ptr,
                out_ptr + N0 + N1, (first + programs * before - before) % programs, N2, offset, factor, K, BLOCK_N,
                BLOCK_W, KIND, BITS, MANTISSA, FLIP, SCALE, GROUP, SCALE_ROWS, HAS_ZEROS, HAS_TENSOR_SCALE, HAS_BIAS,
            )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How a launch is divided: rows of the weight in a block, a program's warps, programs a multiprocessor."""

    block_n: int
    warps: int
    resident: int
    early: bool = True


def choose_plan(n: int, k: int, bits: int) -> Plan:
    """For N = `n` outputs in all and K = `k` inputs."""
    block_w = triton.next_power_of_2(k // (4 if bits == 8 else 8))
    warps = min(8, max(1, block_w // 128))
    return Plan(4 if block_w <= 128 * warps else 2, warps, max(2, 16 // warps))


@dataclass(frozen=True)
class Weight:
    """The parts of a quantised weight, and the bias of its layer."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    tensor_scale: torch.Tensor | None
    bias: torch.Tensor | None


def launch(x: torch.Tensor, weights: Sequence[Weight], format: str, plan: Plan | None = None) -> torch.Tensor:
    """Runs the kernel.

    Args:
        x: [..., K] with few rows.
        weights: one to three, all with or all without a bias.
        format: of all of them, as text.
        plan: in place of the one that `choose_plan` makes.

    Returns:
        [..., sum of N] of x's dtype.
    """
    k, rows = x.shape[-1], as_rows(x)
    sizes = [weight.codes.shape[0] for weight in weights]
    described = describe(format, k)
    plan = plan or choose_plan(sum(sizes), k, described.bits)
    out = torch.empty((*x.shape[:-1], sum(sizes)), dtype=x.dtype, device=x.device)
    blocks = sum(triton.cdiv(size, plan.block_n) for size in sizes)
    arguments: list[object] = []
    for number in range(MOST_WEIGHTS):
        weight = weights[min(number, len(weights) - 1)]
        codes = weight.codes
        arguments += [
            codes,
            weight.scales,
            codes if weight.zeros is None else weight.zeros,
            codes if weight.tensor_scale is None else weight.tensor_scale,
            x if weight.bias is None else weight.bias,
            sizes[number] if number < len(sizes) else 0,
        ]
    offset = float(described.offset + (128 if described.bits == 4 else 256)) if described.kind == 0 else 0.0
    factor = described.factor * (256.0 if described.scale == 2 else 1.0)
    early = plan.early and begins_early(x.device)
    programs = min(blocks, plan.resident * multiprocessor_count(x.device))
    _quantized_gemv_kernel[(programs, rows.shape[0])](
        rows, number_table(x.device) if described.kind == 2 else x, out, rows.stride(0), sum(sizes), factor, offset,
        *arguments, K=k, BLOCK_N=plan.block_n, BLOCK_W=triton.next_power_of_2(k // (4 if described.bits == 8 else 8)),
        **described.constants(), HAS_ZEROS=weights[0].zeros is not None,
        HAS_TENSOR_SCALE=weights[0].tensor_scale is not None, HAS_BIAS=weights[0].bias is not None,
        WEIGHTS=len(weights), EARLY=early, num_warps=plan.warps, **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return out
