"""Precision: number formats, quantised layers, training in 8 bits, and the search for a mix of formats."""

from thunder.precision.autocast_transform import Autocast, autocast
from thunder.precision.checkpoint import load_original, load_quantized, save_quantized
from thunder.precision.layer import QuantizedLinear, quantize_layer
from thunder.precision.measure_sensitivity import Sensitivity, sensitivity
from thunder.precision.quantize_model import Layerwise, memory_of, quantize_model, quantized_layers
from thunder.precision.training import Float8Linear, Float8Recipe, train_in_float8

__all__ = [
    "Autocast",
    "Float8Linear",
    "Float8Recipe",
    "Layerwise",
    "QuantizedLinear",
    "Sensitivity",
    "autocast",
    "load_original",
    "load_quantized",
    "memory_of",
    "quantize_layer",
    "quantize_model",
    "quantized_layers",
    "save_quantized",
    "sensitivity",
    "train_in_float8",
]
