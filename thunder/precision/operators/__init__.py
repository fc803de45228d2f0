"""Operators on quantised weights, as `torch.library` custom ops; one file each."""

from thunder.precision.operators.dequantize import dequantize_weight
from thunder.precision.operators.dynamic import linear_dynamic
from thunder.precision.operators.float8 import linear_float8
from thunder.precision.operators.float8_rows import ROWWISE, linear_float8_rows, quantize_rows
from thunder.precision.operators.merged import linear_weight_only_merged
from thunder.precision.operators.tensorwise import float8_product, linear_in_float8, quantize_float8
from thunder.precision.operators.weight_only import linear_weight_only

__all__ = [
    "ROWWISE",
    "dequantize_weight",
    "float8_product",
    "linear_dynamic",
    "linear_float8",
    "linear_float8_rows",
    "linear_in_float8",
    "linear_weight_only",
    "linear_weight_only_merged",
    "quantize_float8",
    "quantize_rows",
]
