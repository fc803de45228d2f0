"""The kernel of `gemv` for integers, e2m1 and e4m3 with inputs of 16 bits, whose words share what x is made ready with.

Beside that kernel: the PER words that a thread reads side by side have one power of 2 for their x, so that their
products are added as integers; e2m1 with groups of two words reads two scales at once; e4m3 is multiplied in pairs of
float16, four products at most added before float32; x and the norm's weight of the next step are on their way while one
step is used, and the norm's weight of the first before the kernel waits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from thunder.kernels.activation import activate
from thunder.kernels.capture import is_own_capture
from thunder.kernels.launch import begins_early, is_interpreted
from thunder.kernels.machine_code import launch_kernel
from thunder.precision.formats import Format
from thunder.precision.kernels.decode import describe, scale_value
from thunder.precision.kernels.gemv import (
    _FACTORS,
    FLOATS,
    FP4,
    MOST_WEIGHTS,
    Plan,
    Weight,
    _dot,
    _fp4_bytes,
    _largest,
    _low_and_high,
    _two_bytes,
    _whole,
    aligned,
    choose_plan,
    multiplied_as,
    words_at_once,
)

HALVES = 4
"""A way to multiply, beside those of `gemv`: x as float16 times a power of 2, e4m3 as float16."""


@triton.jit
def _words_of(values, COUNT: tl.constexpr):
    """The parts along the last axis, of length COUNT, as four tensors; fewer parts are repeated."""
    if COUNT == 4:
        even, odd = tl.split(tl.reshape(values, values.shape[:-1] + [2, 2]))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        return first, second, third, fourth
    elif COUNT == 2:
        first, second = tl.split(values)
        return first, second, first, second
    else:
        one = tl.reshape(values, values.shape[:-1])
        return one, one, one, one


@triton.jit
def _shared_load(ptr, places, mask, MASKED: tl.constexpr):
    """Values at places; where MASKED, zeros without the mask."""
    if MASKED:
        return tl.load(ptr + places, mask=mask, other=0)
    else:
        return tl.load(ptr + places)


@triton.jit
def _shared_inputs(ptr, w, WORDS: tl.constexpr, CODES: tl.constexpr, MASKED: tl.constexpr):
    """The numbers [words / PER, PER, CODES / 2] that belong to words, in pairs."""
    HALF: tl.constexpr = CODES // 2
    places = w[:, :, None] * HALF + tl.arange(0, HALF)[None, None, :]
    return _shared_load(ptr.to(tl.pointer_type(tl.int32)), places, (w < WORDS)[:, :, None], MASKED)


@triton.jit
def _shared_weights(
    codes_ptr, scales_ptr, zeros_ptr, rows, scale_rows, w, group_at, K: tl.constexpr, BITS: tl.constexpr,
    GROUP: tl.constexpr, SCALES: tl.constexpr, HAS_ZEROS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """(words, scales, zeros) of a step; two scales of 8 bits are 16 bits."""
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    WORDS: tl.constexpr = K // CODES
    places = (codes_ptr + rows.to(tl.int64)[None, :, None] * (K * BITS // 8)).to(tl.pointer_type(tl.int32))
    if MASKED:
        word = tl.load(places + w[:, None, :], mask=(w < WORDS)[:, None, :], other=0, eviction_policy="evict_first")
    else:
        word = tl.load(places + w[:, None, :], eviction_policy="evict_first")
    scale, zero = rows, rows
    if GROUP < K:
        SPAN: tl.constexpr = GROUP * SCALES
        at = scale_rows[None, :] * (K // SPAN) + (group_at * CODES // SPAN)[:, None]
        mask = (group_at < WORDS)[:, None]
        if SCALES == 2:
            scale = _shared_load(scales_ptr.to(tl.pointer_type(tl.uint16)), at, mask, MASKED)
        else:
            scale = _shared_load(scales_ptr, at, mask, MASKED)
        if HAS_ZEROS:
            zero = _shared_load(zeros_ptr, at, mask, MASKED)
    return word, scale, zero


@triton.jit
def _half_pair(low, high, EMULATED: tl.constexpr):
    """Two float32 as the float16 of an int32."""
    if EMULATED:
        first = low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        return first | (high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) << 16)
    return tl.inline_asm_elementwise(
        "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [low, high], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _half_of(code, AT: tl.constexpr):
    """The e4m3 code AT of a word, as float32."""
    byte = (code >> (8 * AT)) & 255
    half = (((byte & 0x80) << 8) | ((byte & 0x7F) << 7)).to(tl.int16).to(tl.float16, bitcast=True)
    return half.to(tl.float32) * 256.0


@triton.jit
def _pair_products(word, low, high, first, second, EMULATED: tl.constexpr):
    """first + the products with the codes 0 and 1 of each word, second + those with 2 and 3, as pairs of float16."""
    if EMULATED:
        a, b = _low_and_high(low, tl.float16)
        c, d = _low_and_high(high, tl.float16)
        e, f = _low_and_high(first, tl.float16)
        g, h = _low_and_high(second, tl.float16)
        e, f = e + a * _half_of(word, 0), f + b * _half_of(word, 1)
        g, h = g + c * _half_of(word, 2), h + d * _half_of(word, 3)
        return _half_pair(e, f, EMULATED), _half_pair(g, h, EMULATED)
    return tl.inline_asm_elementwise(
        """{ .reg .b16 low, high; .reg .b32 p, q;
        mov.b32 {low, high}, $2;
        cvt.rn.f16x2.e4m3x2 p, low;
        cvt.rn.f16x2.e4m3x2 q, high;
        fma.rn.f16x2 $0, p, $3, $5;
        fma.rn.f16x2 $1, q, $4, $6; }""",
        "=r,=r,r,r,r,r,r", [word, low, high, first, second], dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _shared_ready(
    raw, norm_raw, element: tl.constexpr, norm_element: tl.constexpr, CODES: tl.constexpr, PER: tl.constexpr,
    SCALES: tl.constexpr, HAS_NORM: tl.constexpr, MULTIPLY: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """What PER words need of x: (low, high bytes, those of the second half, sums of each scale, unit, squares)."""
    a, b, c, d, e, f, g, h = _shared_numbers(raw, element, CODES)
    squares = a * a + b * b + c * c + d * d
    if CODES == 8:
        squares += e * e + f * f + g * g + h * h
    if HAS_NORM:
        na, nb, nc, nd, ne, nf, ng, nh = _shared_numbers(norm_raw, norm_element, CODES)
        a, b, c, d, e, f, g, h = a * na, b * nb, c * nc, d * nd, e * ne, f * nf, g * ng, h * nh
    most = _largest(_largest(a, b), _largest(c, d))
    if CODES == 8:
        most = _largest(most, _largest(_largest(e, f), _largest(g, h)))
    m0, m1, m2, m3 = _words_of(most, PER)
    if PER > 1:
        m0 = _largest(m0, m1)
    if PER == 4:
        m0 = _largest(m0, _largest(m2, m3))
    exponent = tl.maximum(m0.to(tl.int32, bitcast=True) >> 23, 15)
    # As float16 x is below 16: eight products with at most 448 are below 65504.
    TOP: tl.constexpr = 257 if MULTIPLY == 4 else 268
    inverse = ((TOP - exponent) << 23).to(tl.float32, bitcast=True)[:, None]
    unit = tl.where(exponent == 255, 0x7FC00000, (exponent - (TOP - 254)) << 23).to(tl.float32, bitcast=True)
    if MULTIPLY == 4:
        low = _half_pair(a * inverse, b * inverse, EMULATED)
        high = _half_pair(c * inverse, d * inverse, EMULATED)
        low2, high2, sums = low, high, low
    else:
        a, b = _whole(a, inverse, HAS_NORM), _whole(b, inverse, HAS_NORM)
        c, d = _whole(c, inverse, HAS_NORM), _whole(d, inverse, HAS_NORM)
        sums = (a + b) + (c + d) - 0x2D000000  # four times 0x4B400000, modulo 2^32
        if CODES == 8:
            e, f = _whole(e, inverse, HAS_NORM), _whole(f, inverse, HAS_NORM)
            g, h = _whole(g, inverse, HAS_NORM), _whole(h, inverse, HAS_NORM)
            sums += (e + f) + (g + h) - 0x2D000000
        if MULTIPLY == 1:  # codes 0, 2, 4, 6 are multiplied together, and 1, 3, 5, 7
            a, b, c, d, e, f, g, h = a, c, e, g, b, d, f, h
        low, high = _two_bytes(a, b, c, d, EMULATED)
        low2, high2 = low, high
        if CODES == 8:
            low2, high2 = _two_bytes(e, f, g, h, EMULATED)
    s0, s1, s2, s3 = _words_of(sums, PER)
    if PER == 4:
        if SCALES == 2:
            s0, s1 = s0 + s1, s2 + s3
        else:
            s0 = (s0 + s1) + (s2 + s3)
    elif PER == 2:
        s0 = s0 + s1
    return (
        _words_of(low, PER), _words_of(high, PER), _words_of(low2, PER), _words_of(high2, PER), s0, s1, unit, squares,
    )  # fmt: skip


@triton.jit
def _shared_numbers(pairs, element: tl.constexpr, CODES: tl.constexpr):
    """The numbers of words: 8 tensors [words / PER, PER], of which with 4 codes the first 4 count."""
    if CODES == 4:
        first, second = tl.split(pairs)
        a, b = _low_and_high(first, element)
        c, d = _low_and_high(second, element)
        return a, b, c, d, a, b, c, d
    else:
        even, odd = tl.split(tl.reshape(pairs, pairs.shape[:-1] + [2, 2]))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        a, b = _low_and_high(first, element)
        c, d = _low_and_high(second, element)
        e, f = _low_and_high(third, element)
        g, h = _low_and_high(fourth, element)
        return a, b, c, d, e, f, g, h


@triton.jit
def _shared_products(
    weights, ready, K: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr,
    PER: tl.constexpr, SCALES: tl.constexpr, HAS_ZEROS: tl.constexpr, MULTIPLY: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """The sums [words / PER, BLOCK_N] of the products of PER words each, times their scales."""
    word, scale, zero = weights
    lows, highs, lows2, highs2, sums0, sums1, unit, _ = ready
    words = _words_of(word, PER)
    result = tl.zeros(words[0].shape, tl.float32)
    UNITS: tl.constexpr = 16.0 if MULTIPLY == 1 else 1.0  # what the sums of products are multiples of
    SIGNED: tl.constexpr = MULTIPLY == 1 and FLIP != 0
    for part in tl.static_range(SCALES):
        sums = sums0 if part == 0 else sums1
        total = words[0] * 0
        if MULTIPLY == 3:
            total += (sums * -192)[:, None]
        top = words[0] * 0
        for i in tl.static_range(part * PER // SCALES, (part + 1) * PER // SCALES):
            one = words[i]
            low, high, low2, high2 = lows[i][:, None], highs[i][:, None], lows2[i][:, None], highs2[i][:, None]
            if MULTIPLY == 4:
                total, top = _pair_products(one, low, high, total, top, EMULATED)
            elif MULTIPLY == 2:
                total = _dot(one, low, total, True, False, EMULATED)
                top = _dot(one, high, top, True, True, EMULATED)
            else:
                if MULTIPLY == 1:  # each code in the upper half of a byte: 16 times its number, signed where codes are
                    first = (one << 4) & -252645136
                    second = one & -252645136
                else:
                    flipped = one ^ -2004318072  # the sign of each code
                    first = _fp4_bytes(one, flipped, EMULATED)
                    second = _fp4_bytes(one >> 16, flipped >> 16, EMULATED)
                total = _dot(first, low, total, SIGNED, False, EMULATED)
                total = _dot(second, low2, total, SIGNED, False, EMULATED)
                top = _dot(first, high, top, SIGNED, True, EMULATED)
                top = _dot(second, high2, top, SIGNED, True, EMULATED)
        if MULTIPLY == 4:
            a, b = _low_and_high(total, tl.float16)
            c, d = _low_and_high(top, tl.float16)
            products = (a + b) + (c + d)
        else:
            products = (total + (top << 8)).to(tl.float32)
        if GROUP < K:
            if HAS_ZEROS:
                products -= zero.to(tl.float32) * (UNITS * sums.to(tl.float32))[:, None]
            if SCALES == 2:
                own = (scale & 0xFF) if part == 0 else (scale >> 8)
                products *= scale_value(own, SCALE)
            else:
                products *= scale_value(scale, SCALE)
        result += products
    return result * unit[:, None]


@triton.jit
def _shared_gemv_kernel(
    x_ptr, norm_ptr, residual_ptr, out_ptr, eps, factor,
    codes0, scales0, zeros0, tensor_scale0, bias0, N0, blocks0,
    codes1, scales1, zeros1, tensor_scale1, bias1, N1, blocks1,
    codes2, scales2, zeros2, tensor_scale2, bias2, N2,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, PER: tl.constexpr, SCALES: tl.constexpr,
    BITS: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr,
    SCALE_ROWS: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    WEIGHTS: tl.constexpr, MULTIPLY: tl.constexpr,
    EMULATED: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr, LETS_IN: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    WORDS: tl.constexpr = K // CODES
    STEPS: tl.constexpr = (WORDS + BLOCK_W - 1) // BLOCK_W
    UNROLLED: tl.constexpr = STEPS <= 8
    element: tl.constexpr = x_ptr.dtype.element_ty
    norm_element: tl.constexpr = norm_ptr.dtype.element_ty
    block = tl.program_id(0)
    codes, scales, zeros, tensor_scale, bias, N = codes0, scales0, zeros0, tensor_scale0, bias0, N0
    start_of_out = 0
    if WEIGHTS > 1 and not GATED:
        if block >= blocks0:
            codes, scales, zeros, tensor_scale, bias, N = codes1, scales1, zeros1, tensor_scale1, bias1, N1
            block -= blocks0
            start_of_out = N0
            if WEIGHTS > 2:
                if block >= blocks1:
                    codes, scales, zeros, tensor_scale, bias, N = codes2, scales2, zeros2, tensor_scale2, bias2, N2
                    block -= blocks1
                    start_of_out = N0 + N1
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.minimum(n, N - 1)  # rows beyond the last are computed like it, and not stored
    scale_rows = rows // SCALE_ROWS if SCALE_ROWS > 0 else rows * 0
    group = tl.arange(0, BLOCK_W // PER) * PER
    w = group[:, None] + tl.arange(0, PER)[None, :]
    total = tl.zeros([BLOCK_W // PER, BLOCK_N], tl.float32)
    up_total = tl.zeros([BLOCK_W // PER, BLOCK_N], tl.float32)
    squares = tl.zeros([BLOCK_W // PER, PER], tl.float32)
    if EARLY and not AHEAD:
        # The launch overlaps with the end of the kernel before, which may write anything that is read here.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    FIRST_MASKED: tl.constexpr = BLOCK_W > WORDS
    weights = _shared_weights(
        codes, scales, zeros, rows, scale_rows, w, group, K, BITS, GROUP, SCALES, HAS_ZEROS, FIRST_MASKED
    )
    up_weights = weights
    if GATED:
        up_weights = _shared_weights(
            codes1, scales1, zeros1, rows, scale_rows, w, group, K, BITS, GROUP, SCALES, HAS_ZEROS, FIRST_MASKED
        )
    norm_raw = w
    if HAS_NORM:
        norm_raw = _shared_inputs(norm_ptr, w, WORDS, CODES, FIRST_MASKED)
    row_scale, whole, row_bias = rows, rows, rows
    up_row_scale, up_whole, up_row_bias = rows, rows, rows
    if GROUP == K:
        row_scale = tl.load(scales + scale_rows)
    if HAS_TENSOR_SCALE:
        whole = tl.load(tensor_scale)
    if HAS_BIAS:
        row_bias = tl.load(bias + rows)
    if GATED:
        if GROUP == K:
            up_row_scale = tl.load(scales1 + scale_rows)
        if HAS_TENSOR_SCALE:
            up_whole = tl.load(tensor_scale1)
        if HAS_BIAS:
            up_row_bias = tl.load(bias1 + rows)
    if EARLY and AHEAD:
        # Nothing that runs before writes the weights: they are on their way already.
        if LETS_IN:
            tl.extra.cuda.gdc_launch_dependents()
            tl.extra.cuda.gdc_wait()
        else:
            tl.extra.cuda.gdc_wait()
            tl.extra.cuda.gdc_launch_dependents()
    raw = _shared_inputs(x_ptr, w, WORDS, CODES, FIRST_MASKED)
    residual = rows
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + rows)
    if UNROLLED:
        for step in tl.static_range(STEPS):
            next_raw, next_norm, next_weights, next_up = raw, norm_raw, weights, up_weights
            if step + 1 < STEPS:
                later = w + (step + 1) * BLOCK_W
                next_raw = _shared_inputs(x_ptr, later, WORDS, CODES, (step + 2) * BLOCK_W > WORDS)
                if HAS_NORM:
                    next_norm = _shared_inputs(norm_ptr, later, WORDS, CODES, (step + 2) * BLOCK_W > WORDS)
                later_group = group + (step + 1) * BLOCK_W
                next_weights = _shared_weights(
                    codes, scales, zeros, rows, scale_rows, later, later_group, K, BITS, GROUP, SCALES, HAS_ZEROS,
                    (step + 2) * BLOCK_W > WORDS,
                )  # fmt: skip
                if GATED:
                    next_up = _shared_weights(
                        codes1, scales1, zeros1, rows, scale_rows, later, later_group, K, BITS, GROUP, SCALES,
                        HAS_ZEROS, (step + 2) * BLOCK_W > WORDS,
                    )  # fmt: skip
            ready = _shared_ready(
                raw, norm_raw, element, norm_element, CODES, PER, SCALES, HAS_NORM, MULTIPLY, EMULATED
            )
            if HAS_NORM:
                squares += ready[7]
            total += _shared_products(weights, ready, K, FLIP, SCALE, GROUP, PER, SCALES, HAS_ZEROS, MULTIPLY, EMULATED)
            if GATED:
                up_total += _shared_products(
                    up_weights, ready, K, FLIP, SCALE, GROUP, PER, SCALES, HAS_ZEROS, MULTIPLY, EMULATED
                )
            raw, norm_raw, weights, up_weights = next_raw, next_norm, next_weights, next_up
    else:
        for step in range(STEPS):
            later = w + (step + 1) * BLOCK_W
            later_group = group + (step + 1) * BLOCK_W
            next_raw = _shared_inputs(x_ptr, later, WORDS, CODES, True)
            next_norm = norm_raw
            if HAS_NORM:
                next_norm = _shared_inputs(norm_ptr, later, WORDS, CODES, True)
            next_weights = _shared_weights(
                codes, scales, zeros, rows, scale_rows, later, later_group, K, BITS, GROUP, SCALES, HAS_ZEROS, True
            )
            next_up = up_weights
            if GATED:
                next_up = _shared_weights(
                    codes1, scales1, zeros1, rows, scale_rows, later, later_group, K, BITS, GROUP, SCALES, HAS_ZEROS,
                    True,
                )  # fmt: skip
            ready = _shared_ready(
                raw, norm_raw, element, norm_element, CODES, PER, SCALES, HAS_NORM, MULTIPLY, EMULATED
            )
            if HAS_NORM:
                squares += ready[7]
            total += _shared_products(weights, ready, K, FLIP, SCALE, GROUP, PER, SCALES, HAS_ZEROS, MULTIPLY, EMULATED)
            if GATED:
                up_total += _shared_products(
                    up_weights, ready, K, FLIP, SCALE, GROUP, PER, SCALES, HAS_ZEROS, MULTIPLY, EMULATED
                )
            raw, norm_raw, weights, up_weights = next_raw, next_norm, next_weights, next_up
    norm_factor = 1.0
    if HAS_NORM:
        norm_factor = tl.rsqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / K + eps)
    result = tl.sum(total, axis=0) * factor
    if GROUP == K:
        result *= scale_value(row_scale, SCALE)
    if HAS_TENSOR_SCALE:
        result *= whole
    result *= norm_factor
    if HAS_BIAS:
        result += row_bias.to(tl.float32)
    result = activate(result, ACTIVATION)
    if GATED:
        up = tl.sum(up_total, axis=0) * factor
        if GROUP == K:
            up *= scale_value(up_row_scale, SCALE)
        if HAS_TENSOR_SCALE:
            up *= up_whole
        up *= norm_factor
        if HAS_BIAS:
            up += up_row_bias.to(tl.float32)
        result *= up
    if HAS_RESIDUAL:
        result += residual.to(tl.float32)
    tl.store(out_ptr + start_of_out + n, result.to(out_ptr.dtype.element_ty), mask=n < N)


def shared_way(format: Format, dtype: torch.dtype) -> int:
    """How the numbers of a format are multiplied with inputs of this dtype; FLOATS: not by this kernel."""
    if dtype in (torch.bfloat16, torch.float16) and format.element == "e4m3":
        return HALVES
    return multiplied_as(format, dtype)


def shared_words(format: str, k: int) -> tuple[int, int]:
    """(words that a thread reads side by side, scales that belong to them)."""
    described = describe(format, k)
    per = words_at_once(described)
    if per == 2 and described.scale == 2 and described.bits == 4 and k % (2 * described.group) == 0:
        return 4, 2
    return per, 1


def launch(
    x: torch.Tensor,
    weights: Sequence[Weight],
    format: str,
    plan: Plan | None = None,
    *,
    residual: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    ahead: bool = False,
) -> torch.Tensor:
    """Runs the kernel; as `gemv.launch`."""
    k, is_gated = x.shape[-1], activation != "none"
    sizes = [weight.codes.shape[0] for weight in weights]
    n = sizes[0] if is_gated else sum(sizes)
    described, parsed = describe(format, k), Format.parse(format)
    multiply = shared_way(parsed, x.dtype)
    per, scales = shared_words(format, k)
    plan = plan or choose_plan(n, k, described.bits, per, multiply)
    x = aligned(x)
    norm_weight = None if norm_weight is None else aligned(norm_weight)
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
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
    factor = _FACTORS.get(multiply, 1.0) * (256.0 if described.scale == 2 else 1.0)
    early = plan.early and begins_early(x.device)
    if early and ahead and not is_own_capture():
        out.zero_()  # nobody knows what the kernel before writes: it has ended when this one has begun
    constants = described.constants()
    launch_kernel(_shared_gemv_kernel, (blocks[0] if is_gated else sum(blocks),),
        x, x if norm_weight is None else norm_weight, x if residual is None else residual.reshape(-1),
        out, eps, factor, *arguments,
        K=k, BLOCK_N=plan.block_n, BLOCK_W=plan.block_w, PER=per, SCALES=scales,
        **{name: constants[name] for name in ("BITS", "FLIP", "SCALE", "GROUP", "SCALE_ROWS")},
        HAS_ZEROS=weights[0].zeros is not None, HAS_TENSOR_SCALE=weights[0].tensor_scale is not None,
        HAS_BIAS=weights[0].bias is not None, HAS_NORM=norm_weight is not None, HAS_RESIDUAL=residual is not None,
        ACTIVATION=activation, GATED=is_gated, WEIGHTS=len(weights), MULTIPLY=multiply,
        EMULATED=is_interpreted(), EARLY=early, AHEAD=ahead, LETS_IN=plan.lets_in,
        num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    return out


__all__ = ["FLOATS", "FP4", "HALVES", "launch", "shared_way", "shared_words"]
