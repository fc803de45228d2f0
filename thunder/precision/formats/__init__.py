"""Number formats: elements of 4, 6 and 8 bits, how they are packed, and how blocks of them share scales."""

from thunder.precision.formats.elements import (
    E8M0,
    ELEMENTS,
    Element,
    ExponentElement,
    FloatElement,
    IntegerElement,
    TableElement,
    get_element,
)
from thunder.precision.formats.format import Format, format_names, get_format
from thunder.precision.formats.packing import pack, packed_length, unpack
from thunder.precision.formats.quantized import Quantized, dequantize, empty_quantized, quantize

__all__ = [
    "E8M0",
    "ELEMENTS",
    "Element",
    "ExponentElement",
    "FloatElement",
    "Format",
    "IntegerElement",
    "Quantized",
    "TableElement",
    "dequantize",
    "empty_quantized",
    "format_names",
    "get_element",
    "get_format",
    "pack",
    "packed_length",
    "quantize",
    "unpack",
]
