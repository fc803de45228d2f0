"""A format: an element, and how blocks of elements share scales.

A matrix [R, C] is divided into blocks [rows, columns]; each has one scale, the number that its largest magnitude is
divided by to become the element's largest.

| scaling | block | scale |
|---|---|---|
| tensorwise | all | float32 |
| rowwise | 1 x C | float32 |
| blocks | 1 x 128 or 128 x 128 | float32 |
| groups | 1 x g | bfloat16, with a zero point where asymmetric |
| MX | 1 x 32 | e8m0, a power of 2 |
| NV | 1 x 16 | e4m3, and a float32 for the whole tensor |

A format's text, such as `e2m1/1x16/e4m3+tensor`, says all of it; `Format.parse` reads it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

import torch

from thunder.errors import OptionError, QuantizationError
from thunder.precision.formats.elements import Element, get_element
from thunder.precision.formats.packing import packed_length

SCALE_TYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "e8m0": torch.uint8,
    "e4m3": torch.uint8,
}


@dataclass(frozen=True)
class Format:
    """How a matrix is stored.

    Attributes:
        element: name of the element.
        rows, columns: of a block that shares a scale; 0 for the whole extent.
        scale: what scales are stored as: "float32", "bfloat16", "float16", "e8m0" or "e4m3".
        has_tensor_scale: whether all scales are multiplied by one float32.
        has_zero_point: whether the code of 0 is chosen for each block (unsigned integers only).
    """

    element: str
    rows: int = 1
    columns: int = 0
    scale: str = "float32"
    has_tensor_scale: bool = False
    has_zero_point: bool = False

    def __post_init__(self) -> None:
        get_element(self.element)
        if self.scale not in SCALE_TYPES:
            raise OptionError(f"unknown type of scales {self.scale!r}", remedy=f"known: {', '.join(SCALE_TYPES)}")
        if self.rows < 0 or self.columns < 0:
            raise OptionError(f"blocks of {self.rows} x {self.columns}", remedy="sizes are positive, 0 means all")
        if self.has_zero_point and self.element != "uint4":
            raise OptionError(f"{self.element} has no zero point", remedy="use uint4")

    def __str__(self) -> str:
        block = f"{self.rows or '*'}x{self.columns or '*'}"
        extra = ("+tensor" if self.has_tensor_scale else "") + ("+zero" if self.has_zero_point else "")
        return f"{self.element}/{block}/{self.scale}{extra}"

    @staticmethod
    def parse(text: str) -> Format:
        """The format of a text that `str(format)` gave."""
        return _parse(text)

    @property
    def kind(self) -> Element:
        """The element."""
        return get_element(self.element)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.kind.bits

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """Bits for each number of a matrix of this shape, scales included."""
        blocks = self.scale_shape(shape)
        scales = blocks[0] * blocks[1] * (8 * SCALE_TYPES[self.scale].itemsize + 8 * self.has_zero_point)
        return self.bits + (scales + 32 * self.has_tensor_scale) / (shape[0] * shape[1])

    def block(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a block in a matrix of this shape."""
        return self.rows or shape[0], self.columns or shape[1]

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of the scales of a matrix."""
        rows, columns = self.block(shape)
        return shape[0] // rows, shape[1] // columns

    def why_unsuitable(self, shape: tuple[int, int]) -> str | None:
        """Why a matrix of this shape cannot be stored so, or None."""
        if 0 in shape:
            return f"it is empty ({shape[0]} x {shape[1]})"
        rows, columns = self.block(shape)
        if shape[1] % columns:
            return f"its {shape[1]} inputs are not divisible by the block of {columns}"
        if shape[0] % rows:
            return f"its {shape[0]} outputs are not divisible by the block of {rows}"
        try:
            packed_length(shape[1], self.bits)
        except QuantizationError as error:
            return f"its {error.what}"
        return None

    def check(self, shape: tuple[int, int]) -> None:
        """Raises `QuantizationError` when a matrix of this shape cannot be stored so."""
        reason = self.why_unsuitable(shape)
        if reason is not None:
            raise QuantizationError(
                f"a matrix of {shape[0]} x {shape[1]} cannot be stored as {self}: {reason}",
                remedy="pad the matrix, or choose a format whose blocks divide it",
            )

    def with_group(self, columns: int) -> Format:
        """The same with blocks of 1 x `columns`."""
        return replace(self, rows=1, columns=columns)


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> Format:
    match = re.fullmatch(r"(\w+)/(\*|\d+)x(\*|\d+)/(\w+)(\+tensor)?(\+zero)?", text)
    if match is None:
        raise OptionError(f"{text!r} is no format", remedy="it reads like e2m1/1x16/e4m3+tensor")
    element, rows, columns, scale, tensor, zero = match.groups()
    height, width = (0 if size == "*" else int(size) for size in (rows, columns))
    return Format(element, height, width, scale, tensor is not None, zero is not None)


_NAMED = {
    "int8": Format("int8"),
    "int4": Format("int4", 1, 128, "bfloat16"),
    "int4-asymmetric": Format("uint4", 1, 128, "bfloat16", has_zero_point=True),
    "nf4": Format("nf4", 1, 64, "bfloat16"),
    "fp8": Format("e4m3"),
    "fp8-tensor": Format("e4m3", 0, 0),
    "fp8-1x128": Format("e4m3", 1, 128),
    "fp8-128x128": Format("e4m3", 128, 128),
    "mxfp8": Format("e4m3", 1, 32, "e8m0"),
    "fp6": Format("e3m2"),
    "mxfp6": Format("e3m2", 1, 32, "e8m0"),
    "mxfp4": Format("e2m1", 1, 32, "e8m0"),
    "nvfp4": Format("e2m1", 1, 16, "e4m3", has_tensor_scale=True),
}


def format_names() -> list[str]:
    """Names that `get_format` knows."""
    return list(_NAMED)


def get_format(name: str | Format) -> Format:
    """The format of a name such as "nvfp4", or of a text such as `e2m1/1x16/e4m3+tensor`.

    Raises:
        OptionError: for an unknown name, listing the known ones.
    """
    if isinstance(name, Format):
        return name
    if name in _NAMED:
        return _NAMED[name]
    if "/" in name:
        return _parse(name)
    raise OptionError(f"unknown format {name!r}", remedy=f"known: {', '.join(_NAMED)}")
