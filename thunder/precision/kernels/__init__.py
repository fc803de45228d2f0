"""Triton kernels that read quantised weights, or quantise; one file each."""

from thunder.precision.kernels.float8 import launch as quantize_float8
from thunder.precision.kernels.float8_rows import holds as holds_row
from thunder.precision.kernels.float8_rows import launch as quantize_rows
from thunder.precision.kernels.linear import dequantize, knows, linear, linear_merged, serves

__all__ = [
    "dequantize",
    "holds_row",
    "knows",
    "linear",
    "linear_merged",
    "quantize_float8",
    "quantize_rows",
    "serves",
]
