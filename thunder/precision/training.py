"""Training in 8 bits: linear layers whose products are computed from quantised tensors; the weights stay floats.

Layers are changed in place: their class becomes `Float8Linear`; parameters, names and hooks stay.  With delayed
scaling a layer keeps the largest magnitudes of its last steps in buffers (`x_history`, `weight_history`, float32
[steps]), which `state_dict` holds, and scales by their maximum; without, by the tensors at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thunder.errors import OptionError, QuantizationError
from thunder.precision.formats import get_format
from thunder.precision.operators import linear_float8, linear_in_float8
from thunder.precision.selection import Patterns, select_layers

SMALLEST = {"cuda": 1 << 25, "cpu": 0}
"""Elements of a weight from which on products are computed in 8 bits, by type of device: below, quantising costs more
than the product gains.  On an H100 (8192 rows, forward and backward, beside bf16): 2048x2048 0.35 times as fast,
4096x4096 0.89, 4096x14336 1.45.  The CPU emulates and gains nothing, whatever the size."""
MULTIPLE = 16
HISTORIES = ("x_history", "weight_history")


@dataclass(frozen=True)
class Float8Recipe:
    """How layers are computed.

    Attributes:
        forward: format of inputs and weights, as text.
        backward: format of gradients, as text.
        history: steps whose largest magnitudes are kept (delayed scaling); 0 for scales from the tensors at hand.
    """

    forward: str = "e4m3/*x*/float32"
    backward: str = "e5m2/*x*/float32"
    history: int = 0

    def __post_init__(self) -> None:
        forward = get_format(self.forward)
        get_format(self.backward)
        if self.history and (forward.rows, forward.columns) != (0, 0):
            raise OptionError("delayed scaling has one scale for a tensor", remedy="use scaling='dynamic'")
        if self.history < 0:
            raise OptionError(f"a history of {self.history} steps", remedy="0 or more")


class Float8Linear(nn.Linear):
    """`nn.Linear` whose products are computed in 8 bits; made by `train_in_float8`, not by calling the class."""

    recipe: Float8Recipe
    x_history: torch.Tensor
    weight_history: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise QuantizationError(
            "Float8Linear is made from a linear layer", remedy="use thunder.precision.train_in_float8(model)"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x, self.weight, self.bias)

    def product(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The layer's result with another weight, such as the part that tensor parallelism leaves to a process."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
            weight = weight.to(x.dtype)
        x_most = weight_most = None
        if self.recipe.history:
            x_most = self._most(self.x_history, x)
            weight_most = self._most(self.weight_history, weight)
        forward, backward = get_format(self.recipe.forward), get_format(self.recipe.backward)
        if all((f.rows, f.columns, f.scale) == (0, 0, "float32") for f in (forward, backward)) and x.numel():
            return linear_in_float8(x, weight, bias, x_most, weight_most, forward.element, backward.element)
        return linear_float8(x, weight, bias, x_most, weight_most, self.recipe.forward, self.recipe.backward)

    def _most(self, history: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """The largest magnitude of the steps before; in the first step, of the tensor itself."""
        with torch.no_grad():
            values = tensor.detach()
            current = torch.maximum(values.amax(), -values.amin()).float()
            past = history.max().float()
            most = torch.where(past > 0, past, current)
            if self.training:
                history.copy_(torch.cat([history[1:], current[None].to(history.dtype)]))
        return most

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.recipe}"

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        """Takes states without histories as well: those of the layer before it was changed."""
        kept = {name: buffer for name, buffer in self._buffers.items() if prefix + name not in state_dict}
        for name in kept:
            del self._buffers[name]
        try:
            super()._load_from_state_dict(state_dict, prefix, *arguments)
        finally:
            self._buffers.update(kept)


def plan_training(model: nn.Module, include: Patterns = None, exclude: Patterns = None) -> dict[str, nn.Module]:
    """The layers that `train_in_float8` would change; raises what it would raise, and changes nothing."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"a {type(model).__qualname__} has no layers", remedy="pass an nn.Module")
    layers = select_layers(model, include, exclude)
    chosen = {name: layer for name, layer in layers.items() if _why_left(layer) is None}
    if not chosen:
        name, layer = next(iter(layers.items()))
        raise QuantizationError(
            f"no layer is computed in 8 bits: {name or 'the layer itself'!r} {_why_left(layer)}",
            remedy="train larger layers in 8 bits, and these in bfloat16 without the plugin",
        )
    return chosen


def _why_left(layer: nn.Module) -> str | None:
    if type(layer) is not nn.Linear:
        return f"is a {type(layer).__name__}"
    if layer.out_features % MULTIPLE or layer.in_features % MULTIPLE:
        return f"has {layer.in_features} inputs and {layer.out_features} outputs, not multiples of {MULTIPLE}"
    if not layer.weight.is_floating_point() or layer.weight.dtype.itemsize == 1:
        return f"has a weight of {layer.weight.dtype}"
    smallest = SMALLEST.get(layer.weight.device.type, 0)
    if layer.weight.numel() < smallest:
        return f"has {layer.weight.numel()} weights; on this device 8 bits pay from {smallest} on"
    return None


def train_in_float8(
    model: nn.Module,
    recipe: Float8Recipe | None = None,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
) -> nn.Module:
    """Makes linear layers of a model compute their products in 8 bits, forward and backward, in place.

    Args:
        model: any module. Layers with sizes that are no multiples of 16, and on GPUs small ones, stay as they are.
        recipe: formats and scaling; by default e4m3 forward, e5m2 backward, scales from the tensors at hand.
        include, exclude: patterns of module names (`thunder.precision.selection`).

    Returns:
        The model.

    Raises:
        QuantizationError: for patterns that fit nothing, and when no layer is left. The model is then as before.
    """
    recipe = recipe or Float8Recipe()
    for layer in plan_training(model, include, exclude).values():
        changed: Any = layer
        changed.__class__ = Float8Linear
        changed.recipe = recipe
        if recipe.history:
            for name in HISTORIES:
                layer.register_buffer(name, torch.zeros(recipe.history, device=changed.weight.device))
    return model
