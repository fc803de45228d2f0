"""A linear layer with a quantised weight.

A layer is quantised in place: the module object stays, with its name, hooks and bias, its class becomes
`QuantizedLinear`, and the parameter `weight` gives way to buffers.

    codes: uint8 [N, packed K]    scales, zeros, tensor_scale: as the format has them    bias: [N]

`state_dict` holds these, and the format's text as bytes under `format`.  A `state_dict` of the original layer is
loaded as well: its `weight` is quantised.  Layers without memory (device "meta") are given it by loading.
Casting (`.to(torch.bfloat16)`) changes what `weight` is dequantised to and leaves the stored numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from thunder.errors import QuantizationError
from thunder.precision.formats import Format, Quantized, empty_quantized, quantize
from thunder.precision.formats.packing import pack, unpack
from thunder.precision.operators import (
    ROWWISE,
    dequantize_weight,
    linear_dynamic,
    linear_float8_rows,
    linear_weight_only,
    quantize_rows,
)

PARTS = ("codes", "scales", "zeros", "tensor_scale")


class QuantizedLinear(nn.Linear):
    """`nn.Linear` with a quantised weight; made by `quantize_layer`, not by calling the class.

    Attributes:
        format: how the weight is stored.
        activation: the format that inputs are quantised to at each call, or None.
        format_text, activation_text: the same as texts.
        weight_dtype: of `weight`, the dequantised matrix, which each access computes anew.
        transposed: whether `weight` is [K, N], as in Hugging Face's `Conv1D`.
    """

    format: Format
    activation: Format | None
    format_text: str
    activation_text: str | None
    weight_dtype: torch.dtype
    transposed: bool
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    tensor_scale: torch.Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise QuantizationError(
            "QuantizedLinear is made from a linear layer", remedy="use thunder.precision.quantize_layer(layer, format)"
        )

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The dequantised matrix [N, K] (`transposed`: [K, N])."""
        weight = dequantize_weight(
            self.codes, self.scales, self.zeros, self.tensor_scale, self.format_text, self.weight_dtype
        )
        return weight.t() if self.transposed else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x, None, self.bias)

    def product(self, x: torch.Tensor, weight: None, bias: torch.Tensor | None) -> torch.Tensor:
        """The layer's result with another bias; `weight` is None, the stored one is taken."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise QuantizationError(
                f"an input of shape {tuple(x.shape)} for a layer of {self.in_features} inputs",
                remedy=f"the last dimension must be {self.in_features}",
            )
        if not x.is_floating_point():
            raise QuantizationError(f"an input of {x.dtype} for a linear layer", remedy="pass floating point")
        parts = (self.codes, self.scales, self.zeros, self.tensor_scale, bias)
        # One row on a GPU is left as it is: reading the weight is all that costs then.
        if self.activation_text is not None and not (x.is_cuda and x.numel() == self.in_features):
            if self.activation_text == self.format_text == ROWWISE and not has_gradients(x, bias):
                return linear_float8_rows(*quantize_rows(x), self.codes, self.scales, bias, x.dtype)
            return linear_dynamic(x, *parts, self.format_text, self.activation_text)
        return linear_weight_only(x, *parts, self.format_text)

    def extra_repr(self) -> str:
        activation = f", activation={self.activation}" if self.activation is not None else ""
        has_bias = self.bias is not None
        return f"{self.in_features} -> {self.out_features}, bias={has_bias}, format={self.format}{activation}"

    def quantized(self) -> Quantized:
        """The weight as it is stored."""
        shape = (self.out_features, self.in_features)
        return Quantized(self.codes, self.scales, self.zeros, self.tensor_scale, shape, self.format)

    def keep_part(self, dimension: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Forgets all but some ranges of the weight's rows (dimension 0) or columns (1), exactly as they are stored.

        Raises:
            QuantizationError: a range begins or ends within a block that shares a scale.
        """
        reason = self.why_indivisible(dimension, ranges)
        if reason is not None:
            raise QuantizationError(reason, remedy="leave the layer whole, or choose a format with smaller blocks")
        block = self.format.block((self.out_features, self.in_features))[dimension]
        extent = (self.out_features, self.in_features)[dimension]

        def kept(tensor: torch.Tensor, unit: int) -> torch.Tensor:
            pieces = [tensor.narrow(dimension, start // unit, (stop - start) // unit) for start, stop in ranges]
            return torch.cat(pieces, dimension)

        codes = self.codes if dimension == 0 else unpack(self.codes, self.format.bits)
        codes = kept(codes, 1)
        self.codes = codes if dimension == 0 else pack(codes, self.format.bits)
        if block != extent:
            self.scales = kept(self.scales, block)
            self.zeros = None if self.zeros is None else kept(self.zeros, block)
        count = sum(stop - start for start, stop in ranges)
        if dimension == 0:
            self.out_features = count
        else:
            self.in_features = count

    def why_indivisible(self, dimension: int, ranges: Sequence[tuple[int, int]]) -> str | None:
        """Why `keep_part` would raise, or None."""
        shape = [self.out_features, self.in_features]
        block, extent = self.format.block((shape[0], shape[1]))[dimension], shape[dimension]
        if block != extent and any(bound % block for bounds in ranges for bound in bounds):
            what = ("rows", "columns")[dimension]
            return f"blocks of {block} {what} of a weight that is stored as {self.format} would be cut"
        shape[dimension] = sum(stop - start for start, stop in ranges)
        return self.format.why_unsuitable((shape[0], shape[1]))

    def reset_parameters(self) -> None:
        """A new random weight, as `nn.Linear` draws it."""
        if self.codes.is_meta:
            return
        bound = 1 / math.sqrt(self.in_features)
        weight = torch.empty(self.out_features, self.in_features, device=self.codes.device).uniform_(-bound, bound)
        quantize(weight, self.format, out=self.quantized())
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantizedLinear:
        """Moves; never changes the type of what is stored."""
        parts = {name: self._buffers.pop(name) for name in PARTS}
        try:
            super()._apply(fn, recurse)
            for name, part in parts.items():
                if part is not None:
                    moved = fn(part)
                    parts[name] = moved if moved.dtype is part.dtype else part.to(moved.device)
            if parts["codes"] is not None:
                probe = torch.empty(0, dtype=self.weight_dtype, device=parts["codes"].device)
                self.weight_dtype = fn(probe).dtype
        finally:
            self._buffers.update(parts)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "format"] = format_as_bytes(self.format)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        rest = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        weight = rest.pop(prefix + "weight", None)
        text = rest.pop(prefix + "format", None)
        given = {name: rest.pop(prefix + name, None) for name in PARTS if self._buffers[name] is not None}
        try:
            if weight is not None:
                self._take_weight(weight)
            elif any(value is not None for value in given.values()):
                self._take_parts(given, text)
            else:
                missing_keys.append(prefix + "weight")
        except QuantizationError as error:
            error_msgs.append(f"{prefix.removesuffix('.')}: {error}")
        parts = {name: self._buffers.pop(name) for name in PARTS}
        try:
            super()._load_from_state_dict(
                rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        finally:
            self._buffers.update(parts)

    def _take_weight(self, weight: torch.Tensor) -> None:
        """Quantises an original weight."""
        matrix = weight.t() if self.transposed else weight
        if tuple(matrix.shape) != (self.out_features, self.in_features):
            raise QuantizationError(
                f"a weight of shape {tuple(weight.shape)} for a layer {self.in_features} -> {self.out_features}"
            )
        if self.codes.is_meta and not matrix.is_meta:
            self._set(quantize(matrix, self.format))
        elif not matrix.is_meta:
            quantize(matrix.to(self.codes.device), self.format, out=self.quantized())

    def _take_parts(self, given: dict[str, torch.Tensor | None], text: torch.Tensor | None) -> None:
        """Takes a weight that is quantised already."""
        stored = bytes(text.tolist()).decode("ascii", "replace") if text is not None else str(self.format)
        if stored != str(self.format):
            raise QuantizationError(f"the weight is stored as {stored}, the layer has {self.format}")
        for name, value in given.items():
            mine = self._buffers[name]
            assert mine is not None
            if value is None:
                raise QuantizationError(f"{name} is missing")
            if value.shape != mine.shape or value.dtype is not mine.dtype:
                raise QuantizationError(
                    f"{name} is {value.dtype} {tuple(value.shape)}, expected {mine.dtype} {tuple(mine.shape)}"
                )
        for name, value in given.items():
            mine = self._buffers[name]
            assert mine is not None and value is not None
            if mine.is_meta:
                self._buffers[name] = value.detach().clone()
            else:
                mine.copy_(value)

    def _set(self, stored: Quantized) -> None:
        for name in PARTS:
            self._buffers[name] = getattr(stored, name)


def has_gradients(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether autograd follows a layer with this input and bias."""
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def format_as_bytes(format: Format) -> torch.Tensor:
    """A format's text as uint8 [length]."""
    return torch.tensor(list(str(format).encode("ascii")), dtype=torch.uint8)


def is_transposed(module: nn.Module) -> bool:
    """Whether it is Hugging Face's `Conv1D`: a linear layer whose weight is [K, N]."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer that can be quantised: `nn.Linear` itself, or Hugging Face's `Conv1D`."""
    return type(module) is nn.Linear or is_transposed(module)


def layer_shape(module: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer, quantised or not."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    rows, columns = module.weight.shape  # type: ignore[misc]
    return int(columns), int(rows)


def quantize_layer(
    layer: nn.Module,
    format: Format,
    *,
    activation: Format | None = None,
    stored: Quantized | None = None,
) -> QuantizedLinear:
    """Quantises a linear layer in place; the original weight is freed unless something else holds it.

    Args:
        layer: `nn.Linear`, or Hugging Face's `Conv1D`.
        format: how the weight is to be stored.
        activation: the format that inputs are quantised to at each call; None leaves them as they are.
        stored: the quantised weight, when there is one already.

    Raises:
        QuantizationError: for another kind of module, a shape that the format does not divide, weights that are no
            floats or not finite. The layer is then as before.
    """
    if not is_linear(layer):
        raise QuantizationError(f"{type(layer).__name__} is no linear layer that can be quantised")
    shape, transposed = layer_shape(layer), is_transposed(layer)
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    if stored is None:
        matrix = weight.t() if transposed else weight
        stored = empty_quantized(shape, format, "meta") if weight.is_meta else quantize(matrix, format)
    layer._parameters.pop("weight")
    layer.__class__ = QuantizedLinear
    quantized: Any = layer
    quantized.format, quantized.activation, quantized.transposed = format, activation, transposed
    quantized.format_text, quantized.activation_text = str(format), None if activation is None else str(activation)
    quantized.weight_dtype = weight.dtype
    quantized.out_features, quantized.in_features = shape
    for name in PARTS:
        quantized.register_buffer(name, getattr(stored, name))
    result: QuantizedLinear = quantized
    return result
