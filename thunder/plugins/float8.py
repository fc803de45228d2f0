"""The plugins "fp8" and "mxfp8": linear layers in 8-bit floating point, for inference."""

from __future__ import annotations

from dataclasses import dataclass

from thunder.plugins.plugin import register_plugin
from thunder.plugins.quantize import DynamicPlugin
from thunder.precision.formats import Format, get_format


@register_plugin
@dataclass
class FP8(DynamicPlugin):
    """Weights as e4m3 with a float32 scale for each row: 8 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
        inputs: "weight-only", or "dynamic": inputs are quantised at each call, with a scale for each row. On GPUs from
            Hopper on the product is then computed in 8 bits.
    """

    name = "fp8"

    def format(self) -> Format:
        return get_format("fp8")


@register_plugin
@dataclass
class MXFP8(DynamicPlugin):
    """Weights as e4m3 with a power of 2 for each 32 inputs: 8.25 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
        inputs: "weight-only" or "dynamic", which quantises inputs alike at each call.
    """

    name = "mxfp8"

    def format(self) -> Format:
        return get_format("mxfp8")
