"""A linear layer on one row whose weight is read in 4, 6 or 8 bits, at the speed of memory.

    out[n] = bias[n] + sum_k x[k] * number(codes[n, k]) * scale[n / r, k / g] * tensor_scale
    number(code) - zero[n, k / g] for formats with a zero point

    x: [K]    codes: uint8 [N, K * bits / 8], read as words of 32 bits    bias: [N]    out: [N]

A program computes BLOCK_N rows and walks along K in steps of BLOCK_W words; sums are float32.  Decoding costs two to
four instructions a number (`decode.py`); a scale is applied to the sum of a word's products.  Up to three weights of
the same format are read by one launch: the results lie behind one another in `out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import begins_early
from thunder.kernels.machine_code import launch_kernel
from thunder.precision.kernels.decode import describe, number_table, scale_value, word_pair

MOST_WEIGHTS = 3


@triton.jit
def _rows_of_one_weight(
    x_ptr, codes_ptr, scales_ptr, zeros_ptr, tensor_scale_ptr, bias_ptr, table_ptr, out_ptr, block, N, offset, factor,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr,
    HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    WORDS: tl.constexpr = K // CODES
    ROW_BYTES: tl.constexpr = K * BITS // 8
    GROUPS: tl.constexpr = K // GROUP
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    row = n.to(tl.int64)[:, None]
    scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
    words = (codes_ptr + row * ROW_BYTES).to(tl.pointer_type(tl.uint32))
    total = tl.zeros([BLOCK_N, BLOCK_W], tl.float32)
    for start in range(0, WORDS, BLOCK_W):
        w = start + tl.arange(0, BLOCK_W)
        mask = (n < N)[:, None] & (w < WORDS)[None, :]
        word = tl.load(words + w[None, :], mask=mask, other=0, eviction_policy="evict_first")
        high = word
        if BITS == 6:
            planes = (codes_ptr + row * ROW_BYTES + K // 2).to(tl.pointer_type(tl.uint16))
            both = tl.load(planes + w[None, :], mask=mask, other=0, eviction_policy="evict_first").to(tl.uint32)
            high = (both & 0xFF) | ((both & 0xFF00) << 8)
        if FLIP != 0:
            word = word ^ (FLIP * 0x01010101)
        places = scales_ptr + scale_row[:, None] * GROUPS + ((w * CODES) // GROUP)[None, :]
        if GROUP < K:
            scale = scale_value(tl.load(places, mask=mask, other=0), SCALE)
        products = tl.zeros([BLOCK_N, BLOCK_W], tl.float32)
        sums = tl.zeros([1, BLOCK_W], tl.float32)
        for i in tl.static_range(CODES // 2):
            k = w * CODES + i
            first = tl.load(x_ptr + k, mask=w < WORDS, other=0.0).to(tl.float32)[None, :]
            second = tl.load(x_ptr + k + CODES // 2, mask=w < WORDS, other=0.0).to(tl.float32)[None, :]
            a, b = word_pair(word, high, table_ptr, i, KIND, BITS, MANTISSA)
            products += first * a
            products += second * b
            if KIND == 0:
                sums += first + second
        if KIND == 0:
            if HAS_ZEROS:
                zero_places = zeros_ptr + scale_row[:, None] * GROUPS + ((w * CODES) // GROUP)[None, :]
                zero = tl.load(zero_places, mask=mask, other=0).to(tl.float32)
                products -= sums * (offset + zero)
            else:
                products -= sums * offset
        if GROUP < K:
            products *= scale
        total += products
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
    x_ptr, table_ptr, out_ptr, factor, offset,
    codes0, scales0, zeros0, tensor_scale0, bias0, N0, blocks0,
    codes1, scales1, zeros1, tensor_scale1, bias1, N1, blocks1,
    codes2, scales2, zeros2, tensor_scale2, bias2, N2,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr,
    HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHTS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    if EARLY:
        # The launch overlaps with the end of the kernel before, which may write what is read here.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if WEIGHTS == 1 or block < blocks0:
        _rows_of_one_weight(
            x_ptr, codes0, scales0, zeros0, tensor_scale0, bias0, table_ptr, out_ptr, block, N0, offset, factor,
            K, BLOCK_N, BLOCK_W, KIND, BITS, MANTISSA, FLIP, SCALE, GROUP, SCALE_ROWS, HAS_ZEROS, HAS_TENSOR_SCALE,
            HAS_BIAS,
        )  # fmt: skip
    elif WEIGHTS == 2 or block < blocks0 + blocks1:
        _rows_of_one_weight(
            x_ptr, codes1, scales1, zeros1, tensor_scale1, bias1, table_ptr, out_ptr + N0, block - blocks0, N1, offset,
            factor, K, BLOCK_N, BLOCK_W, KIND, BITS, MANTISSA, FLIP, SCALE, GROUP, SCALE_ROWS, HAS_ZEROS,
            HAS_TENSOR_SCALE, HAS_BIAS,
        )  # fmt: skip
    else:
        _rows_of_one_weight(
            x_ptr, codes2, scales2, zeros2, tensor_scale2, bias2, table_ptr, out_ptr + N0 + N1,
            block - blocks0 - blocks1, N2, offset, factor, K, BLOCK_N, BLOCK_W, KIND, BITS, MANTISSA, FLIP, SCALE,
            GROUP, SCALE_ROWS, HAS_ZEROS, HAS_TENSOR_SCALE, HAS_BIAS,
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How a launch is divided: rows of the weight and words a step of a program, and its warps."""

    block_n: int
    block_w: int
    warps: int
    early: bool = True


def choose_plan(n: int, k: int, bits: int) -> Plan:
    """For N = `n` outputs in all and K = `k` inputs: what was fastest on an H100 among those that were timed."""
    words = k // (4 if bits == 8 else 8)
    if bits == 8 and words <= 512 and n > 2048:
        return Plan(2, 128, 1)
    warps = 1 if words <= 128 else 2
    block_w = min(triton.next_power_of_2(words), 128 * warps)
    return Plan(4 if n > 2048 or (bits < 8 and words > 512) else 2, block_w, warps)


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
        x: [..., K] with one row, elements side by side.
        weights: one to three, all with or all without a bias.
        format: of all of them, as text.
        plan: in place of the one that `choose_plan` makes.

    Returns:
        [..., sum of N] of x's dtype.
    """
    k = x.shape[-1]
    sizes = [weight.codes.shape[0] for weight in weights]
    described = describe(format, k)
    plan = plan or choose_plan(sum(sizes), k, described.bits)
    out = torch.empty((*x.shape[:-1], sum(sizes)), dtype=x.dtype, device=x.device)
    blocks = [triton.cdiv(size, plan.block_n) for size in sizes]
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
        if number < MOST_WEIGHTS - 1:
            arguments.append(blocks[number] if number < len(blocks) else 0)
    offset = float(described.offset + (128 if described.bits == 4 else 256)) if described.kind == 0 else 0.0
    factor = described.factor * (256.0 if described.scale == 2 else 1.0)
    early = plan.early and begins_early(x.device)
    launch_kernel(_quantized_gemv_kernel, (sum(blocks),),
        x, number_table(x.device) if described.kind == 2 else x, out, factor, offset, *arguments,
        K=k, BLOCK_N=plan.block_n, BLOCK_W=plan.block_w, **described.constants(),
        HAS_ZEROS=weights[0].zeros is not None, HAS_TENSOR_SCALE=weights[0].tensor_scale is not None,
        HAS_BIAS=weights[0].bias is not None, WEIGHTS=len(weights), EARLY=early, num_warps=plan.warps,
        launch_pdl=early,
    )  # fmt: skip
    return out
