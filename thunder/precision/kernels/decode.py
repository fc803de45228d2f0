"""From packed codes to numbers, in Triton: shared by the kernels of this folder.

A *word* is 32 bits of codes that lie side by side; `word_pair` gives the numbers of codes i and i + h of a word, h
being half the number of codes.  A *unit* is the least number of whole bytes; `unit_value` gives the number of code i.

Integers are put into the mantissa of a float32 whose exponent is fixed (128 + c, 256 + c): no conversion is needed, and
the offset is taken away from the sum.  Floating point codes are moved to where a float16 has sign, exponent and
mantissa, subnormal numbers included; what is then missing is the power of 2 by which the biases of the exponents
differ.  NF4 is looked up.

`describe(format)` says what the kernels need to know of a format, as constants.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from thunder.kernels.compile_ahead import is_request
from thunder.precision.formats import FloatElement, Format

INTEGER, FLOAT, TABLE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@dataclass(frozen=True)
class Description:
    """Constants of a format, for a matrix with K columns.

    Attributes:
        kind: 0 integers, 1 floating point, 2 table.
        bits: of a code.
        mantissa: bits of the mantissa of floating point.
        flip: what turns the codes of a byte into unsigned ones (two's complement to offset), repeated over the byte.
        offset: what an unsigned code is above its number.
        factor: what numbers as decoded have to be multiplied by.
        scale: 0 float32, bfloat16 or float16; 1 e8m0; 2 e4m3.
        group: columns that share a scale; the whole row has one when it is K.
        rows: that share a scale; 0 for all.
    """

    kind: int
    bits: int
    mantissa: int
    flip: int
    offset: int
    factor: float
    scale: int
    group: int
    rows: int

    def constants(self) -> dict[str, Any]:
        """For launching."""
        return {
            "KIND": self.kind, "BITS": self.bits, "MANTISSA": self.mantissa, "FLIP": self.flip, "SCALE": self.scale,
            "GROUP": self.group, "SCALE_ROWS": self.rows,
        }  # fmt: skip


@functools.lru_cache(maxsize=256)
def describe(format: str, columns: int) -> Description:
    """The constants of a format, given as text."""
    parsed = Format.parse(format)
    element = parsed.kind
    kind, mantissa, flip, offset, factor = 0, 0, 0, 0, 1.0
    if isinstance(element, FloatElement):
        kind, mantissa, factor = 1, element.mantissa_bits, 2.0 ** (15 - element.bias)
    elif parsed.element == "nf4":
        kind = 2
    elif parsed.element in ("int4", "int8"):
        flip, offset = (0x88, 8) if parsed.bits == 4 else (0x80, 128)
    scale = {"e8m0": 1, "e4m3": 2}.get(parsed.scale, 0)
    group, rows = parsed.columns or columns, parsed.rows
    return Description(kind, parsed.bits, mantissa, flip, offset, factor, scale, group, rows)


def number_table(device: torch.device) -> torch.Tensor:
    """The numbers of NF4, float32 [16]."""
    if is_request():  # what is made here has no data, and is not to be kept
        return torch.empty(16, dtype=torch.float32, device=device)
    return _number_table(device)


@functools.lru_cache(maxsize=16)
def _number_table(device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.tensor(Format("nf4").kind.values(), dtype=torch.float32, device=device)


@triton.jit
def half_to_float(bits):
    """The float16 of the low 16 bits, as float32."""
    return (bits & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def shifted(word, AMOUNT: tl.constexpr):
    """Bits moved up by AMOUNT, or down when it is negative."""
    if AMOUNT >= 0:
        moved = word << AMOUNT
    else:
        moved = word >> (-AMOUNT)
    return moved


@triton.jit
def word_pair(word, high, table_ptr, AT: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr):
    """The numbers of codes AT and AT + h of a word: with integers 128 (4 bits) or 256 (8 bits) too large.

    word: uint32; `high` for 6 bits: the high bits of codes 0 to 3 in bits 0 to 7, of codes 4 to 7 in bits 16 to 23.
    """
    if KIND == 0:
        if BITS == 4:
            first = (shifted(word, 16 - 4 * AT) & 0x000F0000) | 0x43000000
            second = (shifted(word, -4 * AT) & 0x000F0000) | 0x43000000
        else:
            first = (shifted(word, 15 - 8 * AT) & 0x007F8000) | 0x43800000
            second = (shifted(word, -1 - 8 * AT) & 0x007F8000) | 0x43800000
        return first.to(tl.float32, bitcast=True), second.to(tl.float32, bitcast=True)
    elif KIND == 2:
        return tl.load(table_ptr + ((word >> (4 * AT)) & 15)), tl.load(table_ptr + ((word >> (4 * AT + 16)) & 15))
    else:
        if BITS == 4:
            magnitude = shifted(word, 9 - 4 * AT) & 0x0E000E00
            sign = shifted(word, 12 - 4 * AT) & 0x80008000
        elif BITS == 8:
            LIFT: tl.constexpr = 10 - MANTISSA
            MASK: tl.constexpr = (0x7F << LIFT) * 0x10001
            magnitude = shifted(word, LIFT - 8 * AT) & MASK
            sign = shifted(word, 8 - 8 * AT) & 0x80008000
        else:
            # Code bits 3..0 come from the word, 5 and 4 from `high`; the sign is bit 5.
            LOW: tl.constexpr = 10 - MANTISSA
            LOW_MASK: tl.constexpr = (0xF << LOW) * 0x10001
            TOP_MASK: tl.constexpr = (0x10 << LOW) * 0x10001
            magnitude = shifted(word, LOW - 4 * AT) & LOW_MASK
            magnitude |= shifted(high, LOW + 4 - 2 * AT) & TOP_MASK
            sign = shifted(high, 14 - 2 * AT) & 0x80008000
        halves = magnitude | sign
        return half_to_float(halves), half_to_float(halves >> 16)


@triton.jit
def unit_value(low, high, table_ptr, AT: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
               FLIP: tl.constexpr):  # fmt: skip
    """The number of code AT of a unit: a byte (8 bits: 1 code, 4 bits: 2), or two bytes and one (6 bits: 4 codes).

    Integers are exact (without their offset); floating point lacks the factor.
    """
    if BITS == 8:
        code = low.to(tl.int32)
    else:
        code = (low.to(tl.int32) >> (4 * AT)) & 15
    if KIND == 0:
        if FLIP != 0:
            HALF: tl.constexpr = 1 << (BITS - 1)
            value = ((code ^ HALF) - HALF).to(tl.float32)
        else:
            value = code.to(tl.float32)
    elif KIND == 2:
        value = tl.load(table_ptr + code)
    else:
        if BITS == 6:
            code |= ((high.to(tl.int32) >> (2 * AT)) & 3) << 4
        SIGN: tl.constexpr = 1 << (BITS - 1)
        bits = ((code & SIGN) << (16 - BITS)) | ((code & (SIGN - 1)) << (10 - MANTISSA))
        value = half_to_float(bits)
    return value


@triton.jit
def scale_value(raw, SCALE: tl.constexpr):
    """A scale as stored, as float32; those of e4m3 lack the factor 2^8."""
    if SCALE == 0:
        return raw.to(tl.float32)
    elif SCALE == 1:
        return (raw.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    else:
        code = raw.to(tl.int32)
        return half_to_float(((code & 0x80) << 8) | ((code & 0x7F) << 7))
