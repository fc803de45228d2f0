"""Elements: numbers of 4, 6 and 8 bits, as codes in bytes.

    encode   floating-point tensor -> uint8 tensor of codes, of the same shape
    decode   uint8 tensor of codes -> float32 tensor

A code is the number's bit pattern in the low bits of a byte.  Rounding is to the nearest, ties to even, or stochastic:
up with a probability that is the distance from the number below, in units of the distance between both.  Numbers
beyond the largest are saturated, or with `overflow="nonfinite"` become what the format has for them (infinity or NaN;
formats that have neither saturate).

| element | bits | largest | smallest above 0 | infinity | NaN |
|---|---|---|---|---|---|
| e4m3 | 8 | 448 | 2^-9 | no | yes |
| e5m2 | 8 | 57344 | 2^-16 | yes | yes |
| e3m2 | 6 | 28 | 2^-4 | no | no |
| e2m3 | 6 | 7.5 | 2^-3 | no | no |
| e2m1 | 4 | 6 | 2^-1 | no | no |
| e8m0 | 8 | 2^127 | 2^-127 | no | yes; no 0, no sign |
| int8, int4, uint4 | 8, 4, 4 | 127, 7, 15 | 1 | no | no |
| nf4 | 4 | 1 | 0.0796 | no | no |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from thunder import _torch_compat
from thunder.errors import QuantizationError, unknown_name

ROUNDINGS = ("nearest", "stochastic")
OVERFLOWS = ("saturate", "nonfinite")


class Element:
    """A number format for single values.

    Attributes:
        name: for `get_element`.
        bits: of a code.
        maximum: the largest finite number.
        largest_exponent: of `maximum`, as a power of 2.
    """

    name: str
    bits: int
    maximum: float

    @property
    def largest_exponent(self) -> int:
        return math.frexp(self.maximum)[1] - 1

    def values(self) -> tuple[float, ...]:
        """The number of every code, in the order of the codes."""
        raise NotImplementedError

    def encode(
        self,
        x: torch.Tensor,
        rounding: str = "nearest",
        overflow: str = "saturate",
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Codes of the numbers, uint8 of the same shape.

        Args:
            x: floating point, any shape.
            rounding: "nearest" (ties to even) or "stochastic".
            overflow: "saturate", or "nonfinite" for the format's infinity or NaN.
            generator: random numbers for "stochastic".
        """
        for what, value, known in (("rounding", rounding, ROUNDINGS), ("overflow", overflow, OVERFLOWS)):
            if value not in known:
                raise unknown_name(what, value, list(known))
        if not x.is_floating_point():
            raise QuantizationError(f"numbers of dtype {x.dtype} have no {self.name} form", remedy="pass floats")
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return self._encode(wide, rounding, overflow, generator)

    def _encode(self, x: torch.Tensor, rounding: str, overflow: str, generator: torch.Generator | None) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The numbers of the codes, float32 of the same shape."""
        return _table(self.name, codes.device)[codes.int()]


def _rounded(x: torch.Tensor, rounding: str, generator: torch.Generator | None) -> torch.Tensor:
    """To whole numbers."""
    if rounding == "nearest":
        return torch.round(x)
    noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return torch.floor(x + noise)


def _float_parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """(bits, exponent, bits of the mantissa, bias) of float32 or float64 numbers; subnormal ones get the lowest."""
    kind, mantissa, bias = (torch.int64, 52, 1023) if x.dtype is torch.float64 else (torch.int32, 23, 127)
    bits = x.contiguous().view(kind)
    return bits, ((bits >> mantissa) & (2 * bias + 1)) - bias, mantissa, bias


@dataclass(frozen=True)
class FloatElement(Element):
    """Sign, exponent, mantissa, with subnormal numbers.

    Attributes:
        exponent_bits, mantissa_bits: of a code.
        has_infinity: the largest exponent is for infinities and NaNs, as IEEE 754 has it.
        has_nan: without infinities: the code of all ones is NaN.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    has_infinity: bool = False
    has_nan: bool = False

    @property
    def bits(self) -> int:  # type: ignore[override]
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest_code(self) -> int:
        """The code of the largest finite number."""
        all_ones = (1 << (self.bits - 1)) - 1
        if self.has_infinity:
            return all_ones - (1 << self.mantissa_bits)
        return all_ones - self.has_nan

    @property
    def maximum(self) -> float:  # type: ignore[override]
        return self._magnitude(self.largest_code)

    def _magnitude(self, code: int) -> float:
        exponent, mantissa = code >> self.mantissa_bits, code & ((1 << self.mantissa_bits) - 1)
        whole = mantissa if exponent == 0 else mantissa + (1 << self.mantissa_bits)
        return math.ldexp(whole, max(exponent, 1) - self.bias - self.mantissa_bits)

    def values(self) -> tuple[float, ...]:
        infinity = self.largest_code + 1 if self.has_infinity else -1
        half = [
            self._magnitude(code) if code <= self.largest_code else math.inf if code == infinity else math.nan
            for code in range(1 << (self.bits - 1))
        ]
        return (*half, *(-value for value in half))

    def _encode(self, x: torch.Tensor, rounding: str, overflow: str, generator: torch.Generator | None) -> torch.Tensor:
        native = _NATIVE.get(self.name)
        if native is not None and rounding == "nearest" and overflow == "saturate" and x.dtype is torch.float32:
            return x.clamp(-self.maximum, self.maximum).to(native).view(torch.uint8)
        bits, exponent, mantissa, bias = _float_parts(x)
        lowest = 1 - self.bias
        # A subnormal number has the lowest exponent, and numbers between two powers of 2 are equally far apart:
        # the count of these distances, with the exponent above it, is the code.
        exponent = exponent.clamp(lowest, bias)
        scale = ((self.mantissa_bits - exponent + bias) << mantissa).view(x.dtype)
        count = _rounded(x.abs() * scale, rounding, generator)
        finite = torch.isfinite(x)
        code = torch.where(finite, count, 0).int() + ((exponent.int() - lowest) << self.mantissa_bits)
        most = self.largest_code
        beyond = most + 1 if overflow == "nonfinite" and (self.has_infinity or self.has_nan) else most
        code = torch.where(code > most, beyond, code)
        code = torch.where(torch.isinf(x), beyond, code)
        sign = (bits < 0).int() << (self.bits - 1)
        is_nan = torch.isnan(x)
        if self.has_infinity or self.has_nan:
            code = torch.where(is_nan, most + 1 + self.has_infinity, code)
            if self.has_infinity:  # a quiet NaN
                code = torch.where(is_nan, most + 1 + (1 << (self.mantissa_bits - 1)), code)
        else:  # as ml_dtypes: a zero, of the other sign
            code = torch.where(is_nan, 0, code)
            sign = torch.where(is_nan, sign ^ (1 << (self.bits - 1)), sign)
        return (code | sign).to(torch.uint8)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        native = _NATIVE.get(self.name)
        return codes.view(native).float() if native is not None else super().decode(codes)


@dataclass(frozen=True)
class ExponentElement(Element):
    """Powers of 2 from 2^-127 to 2^127, as scales; the code 255 is NaN.  Numbers up to 0 have no form: NaN."""

    name: str = "e8m0"
    bits: int = 8
    maximum: float = math.ldexp(1.0, 127)

    def values(self) -> tuple[float, ...]:
        return (*(math.ldexp(1.0, code - 127) for code in range(255)), math.nan)

    def _encode(self, x: torch.Tensor, rounding: str, overflow: str, generator: torch.Generator | None) -> torch.Tensor:
        mantissa, exponent = torch.frexp(x)
        mantissa, exponent = 2 * mantissa - 1, exponent - 1  # x = (1 + mantissa) * 2^exponent
        if rounding == "nearest":
            up = mantissa >= 0.5
        else:
            up = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) < mantissa
        code = exponent + up.int() + 127
        code = torch.where(code > 254, 254 if overflow == "saturate" else 255, code.clamp(min=0))
        infinity = 254 if overflow == "saturate" else 255
        code = torch.where(torch.isinf(x), infinity, code)
        return torch.where((x > 0) | torch.isnan(x), torch.where(torch.isnan(x), 255, code), 255).to(torch.uint8)

    def encode_exponent(self, exponent: torch.Tensor) -> torch.Tensor:
        """Codes of 2^exponent, for whole exponents; those beyond the range become its ends."""
        return (exponent + 127).clamp(0, 254).to(torch.uint8)


@dataclass(frozen=True)
class IntegerElement(Element):
    """Whole numbers from `minimum` to `maximum`; negative ones in two's complement.  NaN becomes 0."""

    name: str
    bits: int
    minimum: int
    maximum: int

    def values(self) -> tuple[float, ...]:
        codes = range(1 << self.bits)
        return tuple(float(code if code <= self.maximum else code - (1 << self.bits)) for code in codes)

    def _encode(self, x: torch.Tensor, rounding: str, overflow: str, generator: torch.Generator | None) -> torch.Tensor:
        whole = _rounded(torch.nan_to_num(x, nan=0.0), rounding, generator).clamp(self.minimum, self.maximum)
        return (whole.to(torch.int16) & ((1 << self.bits) - 1)).to(torch.uint8)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if self.bits == 8:
            return codes.view(torch.int8).float()
        return super().decode(codes) if self.minimum < 0 else codes.float()


@dataclass(frozen=True)
class TableElement(Element):
    """Sixteen numbers in increasing order; "nearest" is the nearest of them, ties to the lower.  NaN becomes 0."""

    name: str
    bits: int
    numbers: tuple[float, ...]
    maximum: float = 1.0

    def values(self) -> tuple[float, ...]:
        return self.numbers

    def _encode(self, x: torch.Tensor, rounding: str, overflow: str, generator: torch.Generator | None) -> torch.Tensor:
        x = torch.nan_to_num(x, nan=0.0)
        table = torch.tensor(self.numbers, dtype=x.dtype, device=x.device)
        if rounding == "nearest":
            return torch.bucketize(x, (table[1:] + table[:-1]) / 2, out_int32=True).to(torch.uint8)
        below = (torch.bucketize(x, table, out_int32=True, right=True) - 1).clamp(0, len(self.numbers) - 2)
        share = (x - table[below]) / (table[below + 1] - table[below])
        noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return (below + (noise < share).int()).to(torch.uint8)


def _normal_float_numbers() -> tuple[float, ...]:
    """The sixteen numbers of NF4: quantiles of the normal distribution, scaled to [-1, 1], 0 among them (QLoRA)."""
    return (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    )  # fmt: skip


E8M0 = ExponentElement()
ELEMENTS: dict[str, Element] = {
    element.name: element
    for element in (
        FloatElement("e4m3", 4, 3, has_nan=True),
        FloatElement("e5m2", 5, 2, has_infinity=True),
        FloatElement("e3m2", 3, 2),
        FloatElement("e2m3", 2, 3),
        FloatElement("e2m1", 2, 1),
        E8M0,
        IntegerElement("int8", 8, -128, 127),
        IntegerElement("int4", 4, -8, 7),
        IntegerElement("uint4", 4, 0, 15),
        TableElement("nf4", 4, _normal_float_numbers()),
    )
}
_NATIVE = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def get_element(name: str) -> Element:
    """The element of that name.

    Raises:
        OptionError: for an unknown name, listing the known ones.
    """
    if name not in ELEMENTS:
        raise unknown_name("element", name, list(ELEMENTS))
    return ELEMENTS[name]


def _table(name: str, device: torch.device) -> torch.Tensor:
    """The numbers of all codes, float32, on the device."""
    table = _tables.get((name, device))
    if table is None:
        with torch.inference_mode(False):
            table = torch.tensor(ELEMENTS[name].values(), dtype=torch.float32, device=device)
        if not _torch_compat.is_fake(table):
            _tables[name, device] = table
    return table


_tables: dict[tuple[str, torch.device], torch.Tensor] = {}
