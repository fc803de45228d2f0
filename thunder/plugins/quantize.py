"""Plugins that store the weights of linear layers in few bits, for inference.

Each changes the model in place, when `thunder.compile` is called: the weights of linear layers are replaced, layer by
layer, and the originals freed.  Embeddings and heads are left alone unless `include` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thunder.errors import OptionError, QuantizationError, unknown_name
from thunder.plugins.distributed import DistributedPlugin
from thunder.plugins.plugin import Choices, Plugin, register_plugin
from thunder.precision import Layerwise, quantize_model, quantized_layers
from thunder.precision.formats import Format, get_format
from thunder.precision.fuse_quantisation import fuse_quantisation
from thunder.precision.merge_products import merge_quantized_products
from thunder.precision.quantize_model import plan_quantization
from thunder.precision.scaled_product import describe_way, way_for
from thunder.precision.selection import Patterns


@dataclass
class QuantizePlugin(Plugin):
    """Base class: subclasses say which format.

    Attributes:
        include: patterns of module names whose linear layers are quantised (`thunder.precision.selection`); without
            them all but embeddings, heads and adapters.
        exclude: patterns of layers to leave alone.
        format, activation: how weights are stored, and what inputs are quantised to at each call.
    """

    include: Patterns = None
    exclude: Patterns = None

    group = "weights"

    def format(self) -> str | Format | Layerwise:
        """How weights are stored."""
        raise NotImplementedError(f"{type(self).__qualname__} does not override `format`")

    def activation(self) -> str | Format | None:
        """What inputs are quantised to at each call; None leaves them as they are."""
        return None

    def check(self, target: Callable[..., Any]) -> None:
        if not isinstance(target, nn.Module):
            raise OptionError(
                f"the plugin {self.name!r} quantises the layers of a module; {target!r} has none",
                remedy="compile an nn.Module",
            )
        self.layers(target)

    def layers(self, target: nn.Module) -> dict[str, nn.Module]:
        """The layers that `apply` changes in a model that no other plugin has changed; raises what it would raise."""
        return plan_quantization(
            target, self.format(), include=self.include, exclude=self.exclude, activation=self.activation()
        ).layers

    def check_after(self, earlier: Sequence[Plugin], target: Callable[..., Any]) -> None:
        assert isinstance(target, nn.Module)
        taken: dict[str, str] = {}
        for other in earlier:
            if isinstance(other, QuantizePlugin):
                taken.update(dict.fromkeys(other.layers(target), other.name))
        own = self.layers(target)
        both = [name for name in own if name in taken]
        if both and (self.include is not None or len(both) == len(own)):
            raise QuantizationError(
                f"{taken[both[0]]!r} and {self.name!r} would both store the layer {both[0]!r}; nothing was changed",
                remedy="keep them apart by patterns; without `include`, a plugin takes what is left by those "
                "listed before it",
            )

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        assert isinstance(target, nn.Module)
        activation = self.activation()
        transforms = [merge_quantized_products] if activation is None else [fuse_quantisation, merge_quantized_products]
        choices.transforms += [transform for transform in transforms if transform not in choices.transforms]
        quantize_model(target, self.format(), include=self.include, exclude=self.exclude, activation=activation)
        if activation is not None:
            choices.notes.append(_note(target, get_format(activation)))
        return choices

    def refuses(self, other: Plugin) -> str | None:
        if isinstance(other, QuantizePlugin) and self.include is None and other.include is None:
            return f"{self.name!r} and {other.name!r} would both quantise every layer: give them `include` patterns"
        return None

    def refuses_to_follow(self, other: Plugin) -> str | None:
        if isinstance(other, DistributedPlugin):
            return f"{self.name!r} cannot follow {other.name!r}: whole layers are quantised, and then divided"
        return None


def _note(model: nn.Module, activation: Format) -> str:
    """Which way the products are computed."""
    layer = next(iter(quantized_layers(model).values()))
    device = layer.codes.device
    way = way_for(device, layer.format, activation, (layer.out_features, layer.in_features), torch.bfloat16)
    return describe_way(way, layer.format, device)


@register_plugin
@dataclass
class QuantizeInt8(QuantizePlugin):
    """Weights as int8 with a float32 scale for each row: 8 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
    """

    name = "quantize-int8"

    def format(self) -> Format:
        return get_format("int8")


@register_plugin
@dataclass
class QuantizeInt4(QuantizePlugin):
    """Weights in 4 bits, with a bfloat16 scale for each group of inputs.

    Args:
        include, exclude: see `QuantizePlugin`.
        group_size: inputs that share a scale; every layer's inputs must be divisible by it. Without it, 128 (nf4:
            64), or the largest of 64, 32, 16 that divides a layer's inputs.
        kind: "symmetric" (-8 to 7), "asymmetric" (0 to 15 with a zero point for each group), or "nf4" (quantiles of
            the normal distribution).
    """

    name = "quantize-int4"
    group_size: int | None = None
    kind: str = "symmetric"

    _KINDS = {"symmetric": "int4", "asymmetric": "int4-asymmetric", "nf4": "nf4"}

    def __post_init__(self) -> None:
        if self.kind not in self._KINDS:
            raise unknown_name("kind of int4", self.kind, list(self._KINDS))
        if self.group_size is not None and (type(self.group_size) is not int or self.group_size < 2):
            raise OptionError(f"group_size={self.group_size!r}", remedy="an int of at least 2, such as 128")

    def format(self) -> Layerwise:
        format = get_format(self._KINDS[self.kind])
        if self.group_size is not None:
            return Layerwise(format.with_group(self.group_size))
        return Layerwise(format, fits_group=True)


@register_plugin
@dataclass
class FP6(QuantizePlugin):
    """Weights in 6 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
        element: "e3m2" or "e2m3".
        scaling: "row" (a float32 for each row) or "mx" (a power of 2 for each 32 inputs).
    """

    name = "fp6"
    element: str = "e3m2"
    scaling: str = "row"

    def __post_init__(self) -> None:
        if self.element not in ("e3m2", "e2m3"):
            raise unknown_name("element of 6 bits", self.element, ["e3m2", "e2m3"])
        if self.scaling not in ("row", "mx"):
            raise unknown_name("scaling", self.scaling, ["row", "mx"])

    def format(self) -> Format:
        return Format(self.element) if self.scaling == "row" else Format(self.element, 1, 32, "e8m0")


@dataclass
class DynamicPlugin(QuantizePlugin):
    """Base class of formats that inputs may have as well, and whose names are the plugins'.

    Attributes:
        inputs: "weight-only" leaves the inputs as they are; "dynamic" quantises them at each call, with scales from
            the inputs themselves.
    """

    inputs: str = "weight-only"

    def __post_init__(self) -> None:
        if self.inputs not in ("weight-only", "dynamic"):
            raise unknown_name("value of inputs:", self.inputs, ["weight-only", "dynamic"])

    def format(self) -> Format:
        return get_format(self.name)

    def activation(self) -> Format | None:
        return self.format() if self.inputs == "dynamic" else None


@register_plugin
@dataclass
class NVFP4(DynamicPlugin):
    """Weights as e2m1 with an e4m3 scale for each 16 inputs and a float32 for the tensor: 4.5 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
        inputs: "weight-only" or "dynamic", which quantises inputs alike at each call.
    """

    name = "nvfp4"


@register_plugin
@dataclass
class MXFP4(DynamicPlugin):
    """Weights as e2m1 with a power of 2 for each 32 inputs: 4.25 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
        inputs: "weight-only" or "dynamic", which quantises inputs alike at each call.
    """

    name = "mxfp4"
