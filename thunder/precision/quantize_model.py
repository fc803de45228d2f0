"""Quantising a model: its linear layers, one after the other, in place.

Input: a model, a format, patterns.  Output: the same model; everything but the chosen layers' weights is what it was.
All layers are checked before the first is changed.  Each original weight is freed when its layer is done: beside the
model, memory for one quantised layer is needed.  Layers on device "meta" get memory when their weights are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from thunder.errors import OptionError, QuantizationError
from thunder.precision.formats import Format, Quantized, get_format
from thunder.precision.formats.quantized import is_finite
from thunder.precision.layer import PARTS, QuantizedLinear, layer_shape, quantize_layer
from thunder.precision.materialise import prepare_for_loading
from thunder.precision.selection import Patterns, select_layers

DEVICES = ("cpu", "cuda", "meta")
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
GROUPS = (128, 64, 32, 16)
"""Sizes of groups that are tried in order where none is asked for."""
GROUPED = ("int4", "int4-asymmetric", "nf4")
"""Names of formats whose groups are made to fit a layer."""


@dataclass(frozen=True)
class Layerwise:
    """The format of a layer, which may depend on its shape.

    Attributes:
        format: the format, or the one with the largest groups.
        fits_group: take the largest group of `GROUPS`, not above the format's, that divides the layer's inputs.
    """

    format: Format
    fits_group: bool = False

    def for_shape(self, shape: tuple[int, int]) -> Format:
        if self.fits_group:
            for group in GROUPS:
                if group <= self.format.columns and shape[1] % group == 0:
                    return self.format.with_group(group)
        return self.format


def quantize_model(
    model: nn.Module,
    format: str | Format | Layerwise,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    activation: str | Format | None = None,
    progress: Callable[[str], None] | None = None,
) -> nn.Module:
    """Quantises linear layers of a model in place.

    Args:
        model: any module; linear layers within it are `nn.Linear` or Hugging Face's `Conv1D`.
        format: how weights are stored: a name such as "nvfp4" (`thunder.precision.formats.format_names()`), or a
            `Format`.
        include, exclude: patterns of module names (see `thunder.precision.selection`); by default embeddings, heads
            and adapters are left alone.
        activation: the format that inputs are quantised to at each call; None leaves them as they are.
        progress: called with each layer's name before it is quantised.

    Returns:
        The model.

    Raises:
        QuantizationError: for patterns that fit nothing, shapes that the format does not divide, weights of other
            dtypes, devices or classes, infinities and NaNs. The model is then as before.
    """
    plan = plan_quantization(model, format, include=include, exclude=exclude, activation=activation)
    layers, formats, inputs = plan.layers, plan.formats, plan.activation
    has_meta = any(parameter.is_meta for parameter in model.parameters())
    done: dict[int, tuple[torch.Tensor, QuantizedLinear]] = {}
    for name, layer in layers.items():
        if progress is not None:
            progress(name)
        weight = layer._parameters["weight"]
        assert weight is not None
        stored = _same(done.get(id(weight)), formats[name], layer)
        quantized = quantize_layer(layer, formats[name], activation=inputs, stored=stored)
        if _is_shared(weight, layers):
            done[id(weight)] = weight, quantized
        del weight  # this frees it, before the next layer needs memory
    if has_meta:
        prepare_for_loading(model)
    return model


@dataclass(frozen=True)
class Plan:
    """What is to be quantised, and how: layers and formats by name, and the format of inputs."""

    layers: dict[str, nn.Module]
    formats: dict[str, Format]
    activation: Format | None


def plan_quantization(
    model: nn.Module,
    format: str | Format | Layerwise,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    activation: str | Format | None = None,
) -> Plan:
    """What `quantize_model` would do with these arguments; raises what it would raise, and changes nothing."""
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"a {type(model).__qualname__} has no layers to quantise", remedy="pass an nn.Module to quantise its layers"
        )
    layerwise = format if isinstance(format, Layerwise) else Layerwise(get_format(format), format in GROUPED)
    inputs = get_format(activation) if activation is not None else None
    layers = select_layers(model, include, exclude)
    formats = {name: layerwise.for_shape(layer_shape(layer)) for name, layer in layers.items()}
    _check(layers, formats, inputs)
    return Plan(layers, formats, inputs)


def _is_shared(weight: torch.Tensor, layers: dict[str, nn.Module]) -> bool:
    """Whether a layer that is still to come has the same weight."""
    return any(layer._parameters.get("weight") is weight for layer in layers.values())


def _same(known: tuple[torch.Tensor, QuantizedLinear] | None, format: Format, layer: nn.Module) -> Quantized | None:
    """What another layer with the same weight has stored."""
    if known is None or known[1].format != format or type(layer) is not nn.Linear or known[1].transposed:
        return None
    return known[1].quantized()


def _check(layers: dict[str, nn.Module], formats: dict[str, Format], inputs: Format | None) -> None:
    """Raises before anything is changed when one of the layers cannot be quantised."""
    reasons = {name: _why_unsuitable(layer, formats[name], inputs) for name, layer in layers.items()}
    unsuitable = {name: reason for name, reason in reasons.items() if reason is not None}
    if not unsuitable:
        return
    name, reason = next(iter(unsuitable.items()))
    others = len(unsuitable) - 1
    more = f" ({others} other layer{'s' if others > 1 else ''} as well)" if others else ""
    excluded = ", ".join(repr(name) for name in list(unsuitable)[:8]) + (", ..." if others > 7 else "")
    raise QuantizationError(
        f"the layer {name or 'itself'!r} cannot be stored as {formats[name]}: {reason}{more}; nothing was changed",
        remedy=f"leave it out with exclude=[{excluded}], or choose another format or group",
    )


def _why_unsuitable(layer: nn.Module, format: Format, inputs: Format | None) -> str | None:
    weight = layer._parameters.get("weight")
    if weight is None:
        return "it has no parameter `weight`"
    if type(weight.data) is not torch.Tensor:
        return f"its weight is a {type(weight.data).__name__}; quantise before the model is distributed"
    if weight.dtype not in WEIGHT_DTYPES:
        return f"its weight is {weight.dtype}, not floating point of 16, 32 or 64 bits"
    if weight.device.type not in DEVICES:
        return f"its weight is on {weight.device}; devices: {', '.join(DEVICES)}"
    shape = layer_shape(layer)
    reason = format.why_unsuitable(shape)
    if reason is None and inputs is not None:
        reason = inputs.why_unsuitable((1, shape[1]))
    if reason is None and not weight.is_meta and not is_finite(weight.detach()):
        reason = "its weight holds infinities or NaNs"
    return reason


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def memory_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, each storage once."""
    sizes: dict[int, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        sizes[tensor.untyped_storage()._cdata if not tensor.is_meta else id(tensor)] = tensor.nbytes
    return sum(sizes.values())


def is_complete(layer: QuantizedLinear) -> bool:
    """Whether the layer has memory."""
    return not any(part.is_meta for part in (getattr(layer, name) for name in PARTS) if part is not None)
