"""A linear layer on one row whose weight is read in 4, 6 or 8 bits, with what stands around it in a decoding step.

    out[n] = residual[n] + act(bias[n] + sum_k h[k] * number(codes[n, k]) * scale[n / r, k / g] * tensor_scale)
    out[n] = act(gate's sum) * up's sum                     for two weights, gate and up, when an activation is given
    number(code) - zero[n, k / g] for formats with a zero point

with h = x, or, when `norm_weight` is given, h = x * norm_weight / sqrt(mean(x^2) + eps) (RMSNorm).

    x: [K]    codes: uint8 [N, K * bits / 8], read as words of 32 bits    bias: [N]    residual, out: [N]

A program computes BLOCK_N rows and walks along K in steps of BLOCK_W words; the words of the next step are on their way
while one is used.  Tiles are [words / PER, rows, PER]: a thread reads PER words that lie side by side and share a
scale, makes x ready for them, and uses that for all of its rows.

Integers, and e2m1, whose doubled numbers are integers, are multiplied as integers: the h of one word are written as
16-bit integers times a power of 2 (exact for 16-bit numbers within a factor of 128 of the largest of the word; the rest
is rounded to 2^-15 of it), each a high and a low byte, and one instruction multiplies and adds four bytes.  That takes
two instructions a number; bytes are decoded four at a time.  Other formats, and float32 inputs, are decoded to float32
(`decode.py`).  An infinity or a NaN in x gives NaN.

Up to three weights of the same format are read by one launch: the results lie behind one another in `out`.
`constant_weights` (see `thunder.kernels.gemv`): the first words are read while the kernel before is still running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from thunder.kernels.activation import activate
from thunder.kernels.capture import is_own_capture
from thunder.kernels.compile_ahead import is_request
from thunder.kernels.launch import begins_early, is_interpreted
from thunder.kernels.machine_code import launch_kernel
from thunder.precision.formats import Format
from thunder.precision.kernels.decode import Description, describe, number_table, scale_value, word_pair
from thunder.precision.scaled_product import capability

MOST_WEIGHTS = 3
FLOATS, NIBBLES, BYTES, FP4 = 0, 1, 2, 3
"""How numbers are multiplied: as float32, or as integers that are decoded from words in three ways."""


_FACTORS = {NIBBLES: 1 / 16, FP4: 1 / 2}


@triton.jit
def _byte(word, AT: tl.constexpr, SIGNED: tl.constexpr):
    value = (word >> (8 * AT)) & 255
    return (value ^ 128) - 128 if SIGNED else value


@triton.jit
def _dot(a, b, start, A_SIGNED: tl.constexpr, B_SIGNED: tl.constexpr, EMULATED: tl.constexpr):
    """start + the sum of the products of four bytes, int32."""
    if EMULATED:
        for i in tl.static_range(4):
            start = start + _byte(a, i, A_SIGNED) * _byte(b, i, B_SIGNED)
        return start
    if A_SIGNED:
        if B_SIGNED:
            return tl.inline_asm_elementwise(
                "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, start], dtype=tl.int32, is_pure=True, pack=1
            )
        return tl.inline_asm_elementwise(
            "dp4a.s32.u32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, start], dtype=tl.int32, is_pure=True, pack=1
        )
    if B_SIGNED:
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, start], dtype=tl.int32, is_pure=True, pack=1
        )
    return tl.inline_asm_elementwise(
        "dp4a.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, start], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _fp4_bytes(word, flipped, EMULATED: tl.constexpr):
    """192 + the doubled numbers of the four e2m1 codes in the low 16 bits, as bytes; `flipped`: signs inverted."""
    if EMULATED:
        result = word * 0
        for i in tl.static_range(4):
            code = word >> (4 * i)
            exponent, mantissa = (code >> 1) & 3, code & 1
            size = tl.where(exponent == 0, mantissa, (2 + mantissa) << tl.maximum(exponent - 1, 0))
            result |= (192 + tl.where((code & 8) != 0, -size, size)) << (8 * i)
        return result
    # A selector below 8 takes a byte of the table, one from 8 on repeats that byte's highest bit: 0 in the first table,
    # 1 in the second.  So each table gives the numbers of one sign and a constant for the other.
    return tl.inline_asm_elementwise(
        """{ .reg .b32 positive, negative;
        prmt.b32 positive, 0x3C3D3E3F, 0x3337393B, $1;
        prmt.b32 negative, 0xBDBEBFC0, 0xB4B8BABC, $2;
        xor.b32 $0, positive, negative; }""",
        "=r,r,r", [word, flipped], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _low_and_high(pair, element):
    """The two 16-bit numbers of an int32, as float32."""
    if element == tl.bfloat16:
        return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)
    else:
        low = (pair & 0xFFFF).to(tl.int16).to(element, bitcast=True).to(tl.float32)
        high = ((pair >> 16) & 0xFFFF).to(tl.int16).to(element, bitcast=True).to(tl.float32)
        return low, high


@triton.jit
def _numbers(ptr, w, mask, CODES: tl.constexpr):
    """The numbers that belong to the codes of words: 8 tensors like `w`, of which with 4 codes the first 4 count."""
    if ptr.dtype.element_ty == tl.float32:
        k = w * CODES
        a = tl.load(ptr + k, mask=mask, other=0.0)
        b = tl.load(ptr + k + 1, mask=mask, other=0.0)
        c = tl.load(ptr + k + 2, mask=mask, other=0.0)
        d = tl.load(ptr + k + 3, mask=mask, other=0.0)
        if CODES == 4:
            return a, b, c, d, a, b, c, d
        else:
            e = tl.load(ptr + k + 4, mask=mask, other=0.0)
            f = tl.load(ptr + k + 5, mask=mask, other=0.0)
            g = tl.load(ptr + k + 6, mask=mask, other=0.0)
            h = tl.load(ptr + k + 7, mask=mask, other=0.0)
            return a, b, c, d, e, f, g, h
    else:
        element = ptr.dtype.element_ty
        HALF: tl.constexpr = CODES // 2
        GROUPS: tl.constexpr = w.shape[0]
        PER: tl.constexpr = w.shape[1]
        places = w[:, :, None] * HALF + tl.arange(0, HALF)[None, None, :]
        pairs = tl.load(ptr.to(tl.pointer_type(tl.int32)) + places, mask=mask[:, :, None], other=0)
        if CODES == 4:
            first, second = tl.split(pairs)
            a, b = _low_and_high(first, element)
            c, d = _low_and_high(second, element)
            return a, b, c, d, a, b, c, d
        else:
            even, odd = tl.split(tl.reshape(pairs, [GROUPS, PER, 2, 2]))
            first, third = tl.split(even)
            second, fourth = tl.split(odd)
            a, b = _low_and_high(first, element)
            c, d = _low_and_high(second, element)
            e, f = _low_and_high(third, element)
            g, h = _low_and_high(fourth, element)
            return a, b, c, d, e, f, g, h


@triton.jit
def _largest(a, b):
    """The larger of two magnitudes; NaN when one is."""
    return tl.maximum(tl.abs(a), tl.abs(b), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _whole(x, inverse, HAS_NORM: tl.constexpr):
    """0x4B400000 + x * inverse rounded to an integer of 16 bits."""
    scaled = x * inverse
    if HAS_NORM:  # products of two numbers may be rounded up to 2^15
        scaled = tl.minimum(scaled, 32767.0)
    return (scaled + 12582912.0).to(tl.int32, bitcast=True)


@triton.jit
def _permuted(a, b, SELECTOR: tl.constexpr, EMULATED: tl.constexpr):
    """Four of the bytes 0 to 3 of `a` and 4 to 7 of `b`, by the digits of SELECTOR."""
    if EMULATED:
        result = a * 0
        for i in tl.static_range(4):
            PLACE: tl.constexpr = (SELECTOR >> (4 * i)) & 7
            source = a if PLACE < 4 else b
            result |= ((source >> (8 * (PLACE % 4))) & 255) << (8 * i)
        return result
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, tl.full(a.shape, SELECTOR, tl.int32)], dtype=tl.int32,
        is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _two_bytes(a, b, c, d, EMULATED: tl.constexpr):
    """(the lowest, the second bytes) of four integers, as words."""
    first, second = _permuted(a, b, 0x5140, EMULATED), _permuted(c, d, 0x5140, EMULATED)
    return _permuted(first, second, 0x5410, EMULATED), _permuted(first, second, 0x7632, EMULATED)


@triton.jit
def _ready(
    x_ptr, norm_ptr, w, WORDS: tl.constexpr, CODES: tl.constexpr, HAS_NORM: tl.constexpr, MULTIPLY: tl.constexpr,
    EMULATED: tl.constexpr,
):  # fmt: skip
    """What the words need of x: (eight tensors, sums, powers of 2, squares).

    As floats: the eight numbers, and their sums.  As integers: low and high bytes of the first and of the second four
    numbers to be multiplied, the sums of the integers, and the power of 2 that they are in units of.
    """
    mask = w < WORDS
    a, b, c, d, e, f, g, h = _numbers(x_ptr, w, mask, CODES)
    squares = a * a + b * b + c * c + d * d
    if CODES == 8:
        squares += e * e + f * f + g * g + h * h
    if HAS_NORM:
        na, nb, nc, nd, ne, nf, ng, nh = _numbers(norm_ptr, w, mask, CODES)
        a, b, c, d, e, f, g, h = a * na, b * nb, c * nc, d * nd, e * ne, f * nf, g * ng, h * nh
    if MULTIPLY == 0:
        sums = a + b + c + d
        if CODES == 8:
            sums += e + f + g + h
        return a, b, c, d, e, f, g, h, sums, sums, squares
    else:
        most = _largest(_largest(a, b), _largest(c, d))
        if CODES == 8:
            most = _largest(most, _largest(_largest(e, f), _largest(g, h)))
        exponent = tl.maximum(most.to(tl.int32, bitcast=True) >> 23, 15)
        inverse = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
        unit = tl.where(exponent == 255, 0x7FC00000, (exponent - 14) << 23).to(tl.float32, bitcast=True)
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
        return low, high, low2, high2, a, a, a, a, sums, unit, squares


@triton.jit
def _load_words(
    codes_ptr, scales_ptr, zeros_ptr, n, w, group_at, N, K: tl.constexpr, BITS: tl.constexpr, SCALE_ROWS: tl.constexpr,
    GROUP: tl.constexpr, HAS_ZEROS: tl.constexpr,
):  # fmt: skip
    """(words, high bits, scales, zeros) of a step; what a format lacks stands for itself."""
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    WORDS: tl.constexpr = K // CODES
    ROW_BYTES: tl.constexpr = K * BITS // 8
    rows = codes_ptr + n.to(tl.int64)[None, :, None] * ROW_BYTES
    mask = (n < N)[None, :, None] & (w < WORDS)[:, None, :]
    word = tl.load(rows.to(tl.pointer_type(tl.int32)) + w[:, None, :], mask=mask, other=0,
                   eviction_policy="evict_first")  # fmt: skip
    high = word
    if BITS == 6:
        planes = (rows + K // 2).to(tl.pointer_type(tl.uint16))
        both = tl.load(planes + w[:, None, :], mask=mask, other=0, eviction_policy="evict_first").to(tl.int32)
        high = (both & 0xFF) | ((both & 0xFF00) << 8)
    scale = n
    zero = n
    if GROUP < K:
        scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
        places = scale_row[None, :] * (K // GROUP) + (group_at * CODES // GROUP)[:, None]
        group_mask = (n < N)[None, :] & (group_at < WORDS)[:, None]
        scale = tl.load(scales_ptr + places, mask=group_mask, other=0)
        if HAS_ZEROS:
            zero = tl.load(zeros_ptr + places, mask=group_mask, other=0)
    return word, high, scale, zero


@triton.jit
def _products(
    word, high, scale, zero, ready, table_ptr, offset, K: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, HAS_ZEROS: tl.constexpr,
    MULTIPLY: tl.constexpr, CONVERTS: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """The sums [words / PER, BLOCK_N] of the products of PER words each, times their scales."""
    sums, unit = ready[8][:, None, :], ready[9][:, None, :]
    UNITS: tl.constexpr = 16.0 if MULTIPLY == 1 else 1.0  # what the sums of products are multiples of
    if MULTIPLY == 0:
        CODES: tl.constexpr = 4 if BITS == 8 else 8
        if CONVERTS:
            products = _converted_products(word, ready)
        else:
            codes = word.to(tl.uint32, bitcast=True)
            if FLIP != 0:
                codes = codes ^ (FLIP * 0x01010101)
            upper_codes = high.to(tl.uint32, bitcast=True)
            products = tl.zeros(word.shape, tl.float32)
            for i in tl.static_range(CODES // 2):
                first, second = word_pair(codes, upper_codes, table_ptr, i, KIND, BITS, MANTISSA)
                products += ready[i][:, None, :] * first
                products += ready[i + CODES // 2][:, None, :] * second
        if KIND == 0:
            products -= sums * offset
        weights_of_zero = sums
    else:
        low, upper = ready[0][:, None, :], ready[1][:, None, :]
        if MULTIPLY == 2:
            total = _dot(word, low, word * 0, True, False, EMULATED)
            total += _dot(word, upper, word * 0, True, True, EMULATED) << 8
        else:
            low2, upper2 = ready[2][:, None, :], ready[3][:, None, :]
            SIGNED: tl.constexpr = MULTIPLY == 1 and FLIP != 0
            if MULTIPLY == 1:  # each code in the upper half of a byte: 16 times its number, signed where codes are
                first = (word << 4) & -252645136
                second = word & -252645136
                start = first * 0
            else:
                flipped = word ^ -2004318072  # the sign of each code
                first = _fp4_bytes(word, flipped, EMULATED)
                second = _fp4_bytes(word >> 16, flipped >> 16, EMULATED)
                start = sums * -192 + first * 0
            total = _dot(first, low, start, SIGNED, False, EMULATED)
            total = _dot(second, low2, total, SIGNED, False, EMULATED)
            top = _dot(first, upper, first * 0, SIGNED, True, EMULATED)
            total += _dot(second, upper2, top, SIGNED, True, EMULATED) << 8
        products = total.to(tl.float32) * unit
        weights_of_zero = sums.to(tl.float32) * unit
    grouped = tl.sum(products, axis=2)
    if GROUP < K:
        if HAS_ZEROS:
            grouped -= zero.to(tl.float32) * (UNITS * tl.sum(weights_of_zero, axis=2))
        grouped *= scale_value(scale, SCALE)
    return grouped


@triton.jit
def _load_row(
    scales_ptr, tensor_scale_ptr, bias_ptr, n, N, K: tl.constexpr, GROUP: tl.constexpr, SCALE_ROWS: tl.constexpr,
    HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """(scales, tensor scale, biases) of rows [BLOCK_N] as they are stored; what a format lacks stands for itself.

    They are asked for before anything waits, and touched when the sums are there: using them earlier would hold up the
    loads that come after.
    """
    scale, whole, bias = n, n, n
    if GROUP == K:
        scale_row = n // SCALE_ROWS if SCALE_ROWS > 0 else n * 0
        scale = tl.load(scales_ptr + scale_row, mask=n < N, other=0)
    if HAS_TENSOR_SCALE:
        whole = tl.load(tensor_scale_ptr)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + n, mask=n < N, other=0.0)
    return scale, whole, bias


@triton.jit
def _row_result(
    total, row, factor, norm_factor, K: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr,
    HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """The sums of rows [BLOCK_N], with what `_load_row` gave."""
    scale, whole, bias = row
    result = tl.sum(total, axis=0) * factor
    if GROUP == K:
        result *= scale_value(scale, SCALE)
    if HAS_TENSOR_SCALE:
        result *= whole
    result *= norm_factor
    if HAS_BIAS:
        result += bias.to(tl.float32)
    return result


@triton.jit
def _converted_products(word, ready):
    """The sum of products of the four e4m3 codes of each word, which the device converts to float16 by pairs."""
    first, second, third, fourth = tl.inline_asm_elementwise(
        """{ .reg .b16 low, high, a, b, c, d; .reg .b32 p, q;
        mov.b32 {low, high}, $4;
        cvt.rn.f16x2.e4m3x2 p, low;
        cvt.rn.f16x2.e4m3x2 q, high;
        mov.b32 {a, b}, p;
        mov.b32 {c, d}, q;
        cvt.f32.f16 $0, a; cvt.f32.f16 $1, b; cvt.f32.f16 $2, c; cvt.f32.f16 $3, d; }""",
        "=r,=r,=r,=r,r", [word], dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
    )  # fmt: skip
    products = ready[0][:, None, :] * first + ready[1][:, None, :] * second
    return products + ready[2][:, None, :] * third + ready[3][:, None, :] * fourth


@triton.jit
def _quantized_gemv_kernel(
    x_ptr, norm_ptr, residual_ptr, table_ptr, out_ptr, eps, factor, offset,
    codes0, scales0, zeros0, tensor_scale0, bias0, N0, blocks0,
    codes1, scales1, zeros1, tensor_scale1, bias1, N1, blocks1,
    codes2, scales2, zeros2, tensor_scale2, bias2, N2,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, PER: tl.constexpr, KIND: tl.constexpr,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, FLIP: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr,
    SCALE_ROWS: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_TENSOR_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    WEIGHTS: tl.constexpr, MULTIPLY: tl.constexpr, CONVERTS: tl.constexpr,
    EMULATED: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr, LETS_IN: tl.constexpr,
):  # fmt: skip
    CODES: tl.constexpr = 4 if BITS == 8 else 8
    WORDS: tl.constexpr = K // CODES
    STEPS: tl.constexpr = (WORDS + BLOCK_W - 1) // BLOCK_W
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
    group = tl.arange(0, BLOCK_W // PER) * PER
    w = group[:, None] + tl.arange(0, PER)[None, :]
    total = tl.zeros([BLOCK_W // PER, BLOCK_N], tl.float32)
    up_total = tl.zeros([BLOCK_W // PER, BLOCK_N], tl.float32)
    squares = tl.zeros([BLOCK_W // PER, PER], tl.float32)
    if EARLY and not AHEAD:
        # The launch overlaps with the end of the kernel before, which may write anything that is read here.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    word, high, scale, zero = _load_words(codes, scales, zeros, n, w, group, N, K, BITS, SCALE_ROWS, GROUP, HAS_ZEROS)
    up_word, up_high, up_scale, up_zero = word, high, scale, zero
    if GATED:
        up_word, up_high, up_scale, up_zero = _load_words(
            codes1, scales1, zeros1, n, w, group, N, K, BITS, SCALE_ROWS, GROUP, HAS_ZEROS
        )
    row = _load_row(scales, tensor_scale, bias, n, N, K, GROUP, SCALE_ROWS, HAS_TENSOR_SCALE, HAS_BIAS)
    up_row = row
    if GATED:
        up_row = _load_row(scales1, tensor_scale1, bias1, n, N, K, GROUP, SCALE_ROWS, HAS_TENSOR_SCALE, HAS_BIAS)
    if EARLY and AHEAD:
        # Nothing that runs before writes the weights: they are on their way already.  The kernel after this one may ask
        # for its own as soon as all programs of this one are there: it waits for the end of this one, and this one ends
        # after the one before.
        if LETS_IN:
            tl.extra.cuda.gdc_launch_dependents()
            tl.extra.cuda.gdc_wait()
        else:
            tl.extra.cuda.gdc_wait()
            tl.extra.cuda.gdc_launch_dependents()
    residual = n
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + n, mask=n < N, other=0.0)
    for step in range(STEPS):
        at = step * BLOCK_W
        ready = _ready(x_ptr, norm_ptr, w + at, WORDS, CODES, HAS_NORM, MULTIPLY, EMULATED)
        if HAS_NORM:
            squares += ready[10]
        next_word, next_high, next_scale, next_zero = word, high, scale, zero
        next_up_word, next_up_high, next_up_scale, next_up_zero = up_word, up_high, up_scale, up_zero
        if STEPS > 1:
            next_word, next_high, next_scale, next_zero = _load_words(
                codes, scales, zeros, n, w + at + BLOCK_W, group + at + BLOCK_W, N, K, BITS, SCALE_ROWS, GROUP,
                HAS_ZEROS,
            )  # fmt: skip
            if GATED:
                next_up_word, next_up_high, next_up_scale, next_up_zero = _load_words(
                    codes1, scales1, zeros1, n, w + at + BLOCK_W, group + at + BLOCK_W, N, K, BITS, SCALE_ROWS, GROUP,
                    HAS_ZEROS,
                )  # fmt: skip
        total += _products(
            word, high, scale, zero, ready, table_ptr, offset, K, KIND, BITS, MANTISSA, FLIP, SCALE, GROUP, HAS_ZEROS,
            MULTIPLY, CONVERTS, EMULATED,
        )  # fmt: skip
        if GATED:
            up_total += _products(
                up_word, up_high, up_scale, up_zero, ready, table_ptr, offset, K, KIND, BITS, MANTISSA, FLIP, SCALE,
                GROUP, HAS_ZEROS, MULTIPLY, CONVERTS, EMULATED,
            )  # fmt: skip
        word, high, scale, zero = next_word, next_high, next_scale, next_zero
        up_word, up_high, up_scale, up_zero = next_up_word, next_up_high, next_up_scale, next_up_zero
    norm_factor = 1.0
    if HAS_NORM:
        norm_factor = tl.rsqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / K + eps)
    result = _row_result(total, row, factor, norm_factor, K, SCALE, GROUP, HAS_TENSOR_SCALE, HAS_BIAS)
    result = activate(result, ACTIVATION)
    if GATED:
        result *= _row_result(up_total, up_row, factor, norm_factor, K, SCALE, GROUP, HAS_TENSOR_SCALE, HAS_BIAS)
    if HAS_RESIDUAL:
        result += residual.to(tl.float32)
    tl.store(out_ptr + start_of_out + n, result.to(out_ptr.dtype.element_ty), mask=n < N)


@dataclass(frozen=True)
class Plan:
    """How a launch is divided: rows of the weight and words a step of a program, and its warps.

    Attributes:
        early: begin while the kernel before is running (from Hopper on).
        lets_in: let the kernel after begin before this one waits for the one before.
    """

    block_n: int
    block_w: int
    warps: int
    early: bool = True
    lets_in: bool = True


def choose_plan(n: int, k: int, bits: int, per: int, multiply: int) -> Plan:
    """For N = `n` outputs in all and K = `k` inputs: the fastest of a search within a decoding step on an H100.

    Many rows share the x that is made ready.  Programs of one warp that walk along K let all of them be there at once,
    which pays where there are enough rows; by themselves, with nothing between them, kernels would do best otherwise.
    """
    words = k // (4 if bits == 8 else 8)
    wide = 2 if bits == 8 else 1
    if multiply == FLOATS and bits != 8:
        rows, block_w, warps = 8 if n >= 8192 else 4, 512, 4
    elif k > 4096:
        rows, block_w, warps = (4, 512, 4) if multiply == FLOATS else (4 * wide, 1024, 8)
    elif n >= 8192 or (bits == 4 and n > k):
        rows, block_w, warps = 8, 64 * wide, 1
    else:
        rows, block_w, warps = 8, 256 * wide, 2
    block_w = max(per, min(triton.next_power_of_2(words), block_w))
    return Plan(rows, block_w, min(warps, max(1, block_w // (32 * per))))


def converts_float8(device: torch.device) -> bool:
    """Whether the device has instructions that convert e4m3."""
    return capability(device) >= 89 and not is_interpreted()


@dataclass(frozen=True)
class Weight:
    """The parts of a quantised weight, and the bias of its layer."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    tensor_scale: torch.Tensor | None
    bias: torch.Tensor | None


def multiplied_as(format: Format, dtype: torch.dtype) -> int:
    """How the numbers of a format are multiplied with inputs of this dtype."""
    if dtype not in (torch.bfloat16, torch.float16):
        return FLOATS
    return {"int4": NIBBLES, "uint4": NIBBLES, "int8": BYTES, "e2m1": FP4}.get(format.element, FLOATS)


def words_at_once(described: Description) -> int:
    """Words that share a scale, and that a thread reads side by side: at most 4."""
    per = 4
    while described.group // (4 if described.bits == 8 else 8) % per:
        per //= 2
    return per


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
    """Runs the kernel.

    Args:
        x: [..., K] with one row, elements side by side.
        weights: one to three, all with or all without a bias; two, gate and up, when there is an activation.
        format: of all of them, as text.
        plan: in place of the one that `choose_plan` makes.
        residual, norm_weight, eps, activation: see the module's docstring; residual only beside one weight.
        ahead: no kernel of the program that is captured writes the weights (`thunder.kernels.gemv.launch`).

    Returns:
        [..., sum of N] of x's dtype; [..., N] of a gate.
    """
    k, is_gated = x.shape[-1], activation != "none"
    sizes = [weight.codes.shape[0] for weight in weights]
    n = sizes[0] if is_gated else sum(sizes)
    described, parsed = describe(format, k), Format.parse(format)
    multiply = multiplied_as(parsed, x.dtype)
    per = words_at_once(described)
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
    offset = float(described.offset + (128 if described.bits == 4 else 256)) if described.kind == 0 else 0.0
    converts = multiply == FLOATS and parsed.element == "e4m3" and converts_float8(x.device)
    own_factor = 1.0 if converts else _FACTORS.get(multiply, described.factor)
    factor = own_factor * (256.0 if described.scale == 2 else 1.0)
    early = plan.early and begins_early(x.device)
    if early and ahead and not is_own_capture():
        out.zero_()  # nobody knows what the kernel before writes: it has ended when this one has begun
    launch_kernel(_quantized_gemv_kernel, (blocks[0] if is_gated else sum(blocks),),
        x, x if norm_weight is None else norm_weight, x if residual is None else residual.reshape(-1),
        number_table(x.device) if described.kind == 2 else x, out, eps, factor, offset, *arguments,
        K=k, BLOCK_N=plan.block_n, BLOCK_W=plan.block_w, PER=per, **described.constants(),
        HAS_ZEROS=weights[0].zeros is not None, HAS_TENSOR_SCALE=weights[0].tensor_scale is not None,
        HAS_BIAS=weights[0].bias is not None, HAS_NORM=norm_weight is not None, HAS_RESIDUAL=residual is not None,
        ACTIVATION=activation, GATED=is_gated, WEIGHTS=len(weights), MULTIPLY=multiply,
        CONVERTS=converts, EMULATED=is_interpreted(), EARLY=early, AHEAD=ahead, LETS_IN=plan.lets_in,
        num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    return out


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of one that does not begin at a multiple of 4 bytes: numbers are read two by two."""
    if is_request() or tensor.data_ptr() % 4 == 0:
        return tensor
    return tensor.clone()
