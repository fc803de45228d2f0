"""Quantising matrices: from floats to codes and scales, and back.

    quantize     float [R, C] -> Quantized: codes uint8 [R, packed], scales [R / rows, C / columns], ...
    dequantize   Quantized -> float [R, C]

    number = element(code) * scale                    (groups, rows, blocks; MX: scale = 2^(byte - 127))
    number = element(code) * e4m3(byte) * tensor      (NV)
    number = (code - zero) * scale                    (asymmetric integers)

A matrix is quantised some rows at a time: temporaries are small beside it.  Blocks of zeros have the scale 1 (NV: 0).
Infinities and NaNs have no place among finite blocks: they are refused, unless `nonfinite="keep"`, which gives NaN to
the whole block where the format can say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thunder.errors import OptionError, QuantizationError
from thunder.precision.formats.elements import E8M0, get_element
from thunder.precision.formats.format import SCALE_TYPES, Format, get_format
from thunder.precision.formats.packing import pack, packed_length, unpack

ROWS_AT_ONCE_ELEMENTS = 1 << 19
"""Numbers that are quantised at once, about: temporaries are a few times as many float32."""


@dataclass
class Quantized:
    """A quantised matrix.

    Attributes:
        codes: uint8 [R, packed_length(C)].
        scales: [R / rows, C / columns] of the format's type; bytes for e8m0 and e4m3.
        zeros: uint8, like `scales`, for formats with a zero point.
        tensor_scale: float32 [], for formats that have one.
        shape: (R, C).
        format: how it is stored.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    tensor_scale: torch.Tensor | None
    shape: tuple[int, int]
    format: Format

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        parts = (self.codes, self.scales, self.zeros, self.tensor_scale)
        return sum(part.nbytes for part in parts if part is not None)


def empty_quantized(shape: tuple[int, int], format: str | Format, device: torch.device | str) -> Quantized:
    """Uninitialised memory for a quantised matrix."""
    chosen = get_format(format)
    chosen.check(shape)
    blocks = chosen.scale_shape(shape)
    return Quantized(
        codes=torch.empty(shape[0], packed_length(shape[1], chosen.bits), dtype=torch.uint8, device=device),
        scales=torch.empty(blocks, dtype=SCALE_TYPES[chosen.scale], device=device),
        zeros=torch.empty(blocks, dtype=torch.uint8, device=device) if chosen.has_zero_point else None,
        tensor_scale=torch.empty((), dtype=torch.float32, device=device) if chosen.has_tensor_scale else None,
        shape=shape,
        format=chosen,
    )


def quantize(
    x: torch.Tensor,
    format: str | Format,
    *,
    rounding: str = "nearest",
    generator: torch.Generator | None = None,
    nonfinite: str = "error",
    most: torch.Tensor | None = None,
    out: Quantized | None = None,
) -> Quantized:
    """Quantises a matrix.

    Args:
        x: floating point [R, C].
        format: a `Format`, a name such as "nvfp4", or a text such as `int4/1x64/bfloat16`.
        rounding: of the elements: "nearest" (ties to even) or "stochastic". Scales are rounded to the nearest; those
            of MX are powers of 2 not above the exact scale, as the OCP specification says.
        generator: random numbers for "stochastic".
        nonfinite: "error", or "keep": what happens to infinities and NaNs (see the module's docstring).
        most: float [], for tensorwise formats: the largest magnitude to provide for, in place of the matrix's own;
            what is beyond saturates.
        out: where the result goes, from `empty_quantized`.

    Raises:
        QuantizationError: for a shape that the format's blocks do not divide, a dtype that is no float, infinities
            and NaNs.
    """
    chosen = get_format(format)
    if x.dim() != 2:
        raise QuantizationError(f"a tensor of {x.dim()} dimensions is no matrix", remedy="reshape it to [R, C]")
    if not x.is_floating_point():
        raise QuantizationError(f"a matrix of {x.dtype} cannot be quantised", remedy="pass floating point")
    shape = (x.shape[0], x.shape[1])
    chosen.check(shape)
    x = x.detach()
    if nonfinite == "error" and not is_finite(x):
        raise QuantizationError("the matrix holds infinities or NaNs", remedy="pass finite numbers")
    result = out if out is not None else empty_quantized(shape, chosen, x.device)
    if result.tensor_scale is not None:
        lowest, highest = torch.aminmax(x.float() if x.dtype.itemsize == 1 else x)
        largest = torch.maximum(-lowest.float(), highest.float())
        result.tensor_scale.copy_(_or_one(largest / (get_element("e4m3").maximum * chosen.kind.maximum)))
    rows, columns = chosen.block(shape)
    if most is not None and (rows, columns) != shape:
        raise OptionError(f"{chosen} has several scales", remedy="`most` is for formats with one scale")
    at_once = ROWS_AT_ONCE_ELEMENTS << (7 if x.is_cuda else 0)
    step = max(at_once // (shape[1] * rows), 1) * rows
    whole_scale = None
    if rows == shape[0] and (rows > 1 or most is not None):
        # A block reaches over all rows: its scale is known before its codes.
        whole_scale = most.view(1, 1) if most is not None else _column_maxima(x, chosen, at_once)
        step = max(at_once // shape[1], 1)
    for start in range(0, shape[0], step):
        part = x[start : start + step]
        part = part if part.dtype is torch.float64 else part.float()
        first = start // rows
        blocks = slice(first, first + max(part.shape[0] // rows, 1))
        _quantize_rows(part, chosen, result, slice(start, start + step), blocks, whole_scale, rounding, generator)
    return result


def is_finite(x: torch.Tensor) -> bool:
    """Whether a tensor holds neither infinities nor NaNs; needs no memory."""
    lowest, highest = torch.aminmax(x.float() if x.dtype.itemsize == 1 else x)
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))


def _column_maxima(x: torch.Tensor, format: Format, at_once: int) -> torch.Tensor:
    """Largest magnitudes [1, C / columns] of blocks that reach over all rows."""
    width = format.columns or x.shape[1]
    rows = max(at_once // x.shape[1], 1)
    parts = [part.float().abs().amax(0) for part in x.split(rows)]
    return torch.stack(parts).amax(0).view(1, -1, width).amax(-1)


def _quantize_rows(
    x: torch.Tensor,
    format: Format,
    result: Quantized,
    rows: slice,
    blocks: slice,
    maxima: torch.Tensor | None,
    rounding: str,
    generator: torch.Generator | None,
) -> None:
    """Quantises some rows, whole blocks of them, or rows of a block whose maxima are known."""
    height, width = (x.shape[0] if maxima is not None else format.rows or x.shape[0]), format.columns or x.shape[1]
    blocked = x.view(x.shape[0] // height, height, x.shape[1] // width, width)
    if format.has_zero_point:
        assert result.zeros is not None
        low = blocked.amin((1, 3)).clamp(max=0)
        high = blocked.amax((1, 3)).clamp(min=0)
        scales = _or_one((high - low) / format.kind.maximum).to(result.scales.dtype)
        exact = scales.to(x.dtype)
        zeros = torch.round(-low / exact).clamp(0, format.kind.maximum)
        codes = format.kind.encode(blocked / exact[:, None, :, None] + zeros[:, None, :, None], rounding, "saturate",
                                   generator)  # fmt: skip
        result.zeros[blocks] = zeros.to(torch.uint8)
        result.scales[blocks] = scales
    else:
        most = maxima if maxima is not None else blocked.abs().amax((1, 3))
        scales = _scales(most, format, result.tensor_scale)
        result.scales[blocks] = scales
        exact = effective_scales(scales, format, result.tensor_scale).to(x.dtype)
        exact = torch.where(exact == 0, 1.0, exact)
        codes = format.kind.encode(blocked / exact[:, None, :, None], rounding, "saturate", generator)
    result.codes[rows] = pack(codes.view(x.shape), format.bits)


def _or_one(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 1.0, scale)


def _scales(maxima: torch.Tensor, format: Format, tensor_scale: torch.Tensor | None) -> torch.Tensor:
    """The scales, as stored, of blocks with these largest magnitudes."""
    if format.scale == "e8m0":
        exponent = torch.frexp(maxima)[1] - 1 - format.kind.largest_exponent
        codes = E8M0.encode_exponent(exponent)
        codes = torch.where(maxima == 0, 127, codes)
        return torch.where(torch.isfinite(maxima), codes, 255).to(torch.uint8)
    largest = 7.0 if format.element == "int4" else 127.0 if format.element == "int8" else format.kind.maximum
    scale = maxima / largest
    if format.scale == "e4m3":
        relative = scale / tensor_scale if tensor_scale is not None else scale
        return get_element("e4m3").encode(relative, "nearest", "saturate")
    stored = scale.to(SCALE_TYPES[format.scale])
    return torch.where(stored == 0, 1.0, stored)


def effective_scales(scales: torch.Tensor, format: Format, tensor_scale: torch.Tensor | None) -> torch.Tensor:
    """What the elements are multiplied by, float32, of the shape of `scales`."""
    if format.scale in ("e8m0", "e4m3"):
        values = get_element(format.scale).decode(scales)
        return values * tensor_scale if tensor_scale is not None else values
    return scales.float()


def dequantize(quantized: Quantized, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The matrix [R, C] of the numbers that are stored; computed in float32, rounded to `dtype`."""
    format, shape = quantized.format, quantized.shape
    values = format.kind.decode(unpack(quantized.codes, format.bits))
    rows, columns = format.block(shape)
    blocked = values.view(shape[0] // rows, rows, shape[1] // columns, columns)
    if quantized.zeros is not None:
        blocked = blocked - quantized.zeros.float()[:, None, :, None]
    scales = effective_scales(quantized.scales, format, quantized.tensor_scale)
    if dtype is torch.float64:
        blocked, scales = blocked.double(), scales.double()
    return (blocked * scales[:, None, :, None]).view(shape).to(dtype)
