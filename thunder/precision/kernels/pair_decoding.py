"""Machine code (PTX) that decodes four bytes of codes to 16-bit floats, by instructions for pairs of them.

Input: a format, the floats' type.  Output: the text for `tl.inline_asm_elementwise(pack=4)` with the arguments (bytes,
offsets, scales) and one result for codes of 8 bits, two (low and high halves of the bytes) for codes of 4 bits.

    number = (decoded(code) + offset) * scale       integers
    number = decoded(code) * 2^e * scale            floating point; e: by what the exponents' biases differ

Integers are put into the mantissa of a float whose exponent is fixed: `fixed` is what stands for 0, and the offset
takes it away (int8 as bfloat16, whose mantissa is too short: the number without its sign bit, less 128 or 256).
Floating point codes are moved to where the float has sign, exponent and mantissa; subnormal numbers come right by the
multiplication.  Each is exact; only the product with the scale is rounded.  NF4 and codes of 6 bits have no such text.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from thunder.precision.formats import FloatElement, Format

_ONES, _NONE = {"bf16": 0x3F803F80, "f16": 0x3C003C00}, 0x80008000
_HALVES = ((0x4140, 0x4342), (0x1404, 0x3424))
"""Selectors of bytes 0 and 1, 2 and 3: each below a byte of the other source, or above one."""


@dataclass(frozen=True)
class PairDecoding:
    """The text, and what a code of 0 without a zero point is decoded to."""

    text: str
    fixed: float


def pair_decoding(format: Format, dtype: torch.dtype, is_scaled: bool) -> PairDecoding | None:
    """The piece of code for a format, with or without the product with scales; None where there is none."""
    kind = {torch.bfloat16: "bf16", torch.float16: "f16"}.get(dtype)
    if kind is None or format.bits not in (4, 8) or format.element in ("nf4", "e8m0"):
        return None
    return _decoding(format.element, format.bits, is_scaled, kind)


@functools.lru_cache(maxsize=64)
def _decoding(name: str, bits: int, is_scaled: bool, kind: str) -> PairDecoding:
    element = Format(name).kind
    results = 2 if bits == 8 else 4
    word, offsets, scales = (f"${results + i}" for i in (0, 1, 3))
    lines = [".reg .b32 w, p, s, one, none;", f"mov.b32 one, {_ONES[kind]};", f"mov.b32 none, {_NONE};"]
    fixed = 0.0
    for half in range(results // 2):
        if isinstance(element, FloatElement):
            # Each code at the top of its byte.
            lines.append(f"shl.b32 w, {word}, 4;" if bits == 4 and half == 0 else f"mov.b32 w, {word};")
        elif bits == 4:
            lines += [f"shr.u32 w, {word}, 4;" if half else f"mov.b32 w, {word};", "and.b32 w, w, 0x0F0F0F0F;"]
            if name == "int4":
                lines.append("xor.b32 w, w, 0x08080808;")
        else:
            lines.append(f"xor.b32 w, {word}, 0x80808080;" if kind == "f16" else f"mov.b32 w, {word};")
        for pair in range(2):
            result = f"${2 * half + pair}"
            if isinstance(element, FloatElement):
                lines += _float(element, kind, _HALVES[1][pair], result)
            else:
                top = 0x43434343 if kind == "bf16" else 0x64646464
                lines.append(f"prmt.b32 p, w, {top}, {_HALVES[0][pair]};")
                if name == "int8" and kind == "bf16":
                    lines += ["and.b32 s, p, 0xFF80FF80;", "xor.b32 s, s, 0x80008000;", "and.b32 p, p, 0xFF7FFF7F;"]
                    lines.append(f"fma.rn.bf16x2 {result}, p, one, s;")
                else:
                    fixed = (128.0 if kind == "bf16" else 1024.0) + {"int4": 8.0, "int8": 128.0}.get(name, 0.0)
                    offset = f"${int(offsets[1:]) + pair}"
                    lines.append(f"fma.rn.{kind}x2 {result}, p, one, {offset};")
            if is_scaled:
                scale = f"${int(scales[1:]) + pair}"
                lines.append(f"fma.rn.{kind}x2 {result}, {result}, {scale}, none;")
    return PairDecoding("{\n" + "\n".join(lines) + "\n}", fixed)


def _float(element: FloatElement, kind: str, selector: int, result: str) -> list[str]:
    """Two floating point codes at the top of bytes of `w`."""
    lowest, bias = (7, 127) if kind == "bf16" else (10, 15)  # the exponent's lowest bit, and its bias
    exponent_bits = element.bits - 1 - element.mantissa_bits
    shift = 15 - exponent_bits - lowest
    mask = (((1 << (element.bits - 1)) - 1) << (16 - element.bits)) >> shift
    power = (2 * bias - element.bias) << lowest  # 2^(bias - element.bias)
    return [
        f"prmt.b32 p, w, 0, {selector};",
        f"and.b32 s, p, {0x80008000};",
        f"shr.u32 p, p, {shift};",
        f"and.b32 p, p, {mask * 0x10001};",
        "or.b32 p, p, s;",
        f"mov.b32 s, {power * 0x10001};",
        f"fma.rn.{kind}x2 {result}, p, s, none;",
    ]
