"""The plugins "fp8" and "mxfp8": linear layers in 8-bit floating point, for inference and for training.

A model in evaluation mode gets weights that are stored in 8 bits.  A model in training mode keeps its weights, and the
products of its linear layers are computed in 8 bits, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from thunder.errors import OptionError, unknown_name
from thunder.plugins.plugin import Choices, register_plugin
from thunder.plugins.quantize import DynamicPlugin
from thunder.precision.formats import get_format
from thunder.precision.scaled_product import describe_way, way_for
from thunder.precision.training import Float8Linear, Float8Recipe, plan_training, train_in_float8

USES = ("auto", "inference", "training")


@dataclass
class Float8Plugin(DynamicPlugin):
    """Base class of formats for both uses.

    Attributes:
        use: "inference", "training", or "auto": training for models in training mode that have gradients.
    """

    use: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use not in USES:
            raise unknown_name("use", self.use, list(USES))

    def recipe(self) -> Float8Recipe:
        """How layers are computed in training."""
        raise NotImplementedError(f"{type(self).__qualname__} does not override `recipe`")

    def trains(self, target: Callable[..., Any]) -> bool:
        """Whether the model is to be trained."""
        if self.use != "auto" or not isinstance(target, nn.Module):
            return self.use == "training"
        return target.training and any(parameter.requires_grad for parameter in target.parameters())

    def check(self, target: Callable[..., Any]) -> None:
        if not self.trains(target):
            return super().check(target)
        if not isinstance(target, nn.Module):
            raise OptionError(f"the plugin {self.name!r} changes the layers of a module; {target!r} has none")
        self.layers(target)
        self.recipe()

    def layers(self, target: nn.Module) -> dict[str, nn.Module]:
        if self.trains(target):
            return plan_training(target, self.include, self.exclude)
        return super().layers(target)

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        if not self.trains(target):
            return super().apply(choices, target)
        assert isinstance(target, nn.Module)
        recipe = self.recipe()
        train_in_float8(target, recipe, include=self.include, exclude=self.exclude)
        layer = next(module for module in target.modules() if isinstance(module, Float8Linear))
        forward, device = get_format(recipe.forward), layer.weight.device
        way = way_for(device, forward, forward, (layer.out_features, layer.in_features), layer.weight.dtype)
        choices.notes.append(describe_way(way, forward, device))
        return choices


@register_plugin
@dataclass
class FP8(Float8Plugin):
    """8-bit floating point with float32 scales.

    For inference, weights are stored as e4m3 with a scale for each row: 8 bits.  For training, inputs and weights are
    e4m3, gradients e5m2.

    Args:
        include, exclude: see `QuantizePlugin`.
        inputs: inference: "weight-only", or "dynamic": inputs are quantised at each call, with a scale for each row.
            On GPUs from Hopper on the product is then computed in 8 bits.
        use: "inference", "training", or "auto": training for models in training mode that have gradients.
        scaling: training: "dynamic" scales by the tensors at hand; "delayed" by the largest magnitudes of the last
            `history` steps, which are saved in checkpoints (gradients are always scaled by themselves).
        backward: training: element of gradients, "e5m2" or "e4m3".
        granularity: training: "tensor" or "row": what has a scale of its own.
        history: training: steps that delayed scaling looks back.
    """

    name = "fp8"
    scaling: str = "dynamic"
    backward: str = "e5m2"
    granularity: str = "tensor"
    history: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value, known in (
            ("scaling", self.scaling, ("dynamic", "delayed")),
            ("element of gradients", self.backward, ("e5m2", "e4m3")),
            ("granularity", self.granularity, ("tensor", "row")),
        ):
            if value not in known:
                raise unknown_name(what, value, list(known))
        if type(self.history) is not int or self.history < 1:
            raise OptionError(f"history={self.history!r}", remedy="an int of at least 1")
        self.recipe()

    def recipe(self) -> Float8Recipe:
        block = "*x*" if self.granularity == "tensor" else "1x*"
        history = self.history if self.scaling == "delayed" else 0
        return Float8Recipe(f"e4m3/{block}/float32", f"{self.backward}/{block}/float32", history)


@register_plugin
@dataclass
class MXFP8(Float8Plugin):
    """e4m3 with a power of 2 for each 32 numbers that are summed over: 8.25 bits.

    Args:
        include, exclude: see `QuantizePlugin`.
        inputs: inference: "weight-only" or "dynamic", which quantises inputs alike at each call.
        use: "inference", "training", or "auto": training for models in training mode that have gradients.
    """

    name = "mxfp8"

    def recipe(self) -> Float8Recipe:
        return Float8Recipe(str(get_format("mxfp8")), str(get_format("mxfp8")))
