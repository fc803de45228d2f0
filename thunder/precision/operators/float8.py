"""A linear layer of float weights whose products are computed in 8 bits, for training.

    out     = q(x) @ q(weight).T + bias            forward's format, along K
    for x   = q(gradient) @ q(weight.T).T          backward's format for the gradient, forward's for the rest, along N
    weight' = q(gradient.T) @ q(x.T).T             the same, along the rows M
    bias'   = sum over rows of gradient

    x: [..., K]    weight: [N, K]    bias: [N]    out: [..., N] of x's dtype

q quantises with one scale for the tensor, one for each row, or one for each block of the dimension that is summed
over; it is passed straight through by gradients.  Scales come from the tensors themselves, or, tensorwise, from
`x_most` and `weight_most` (float32 []), the largest magnitudes to be provided for: what is beyond saturates.  Gradients
are always scaled by themselves.  Dimensions that blocks do not divide are filled up with zeros.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch.nn import functional as F

from thunder.precision.formats import Format, dequantize, quantize
from thunder.precision.scaled_product import scaled_product, way_for


def quantized_product(
    a: torch.Tensor,
    b: torch.Tensor,
    a_format: str,
    b_format: str,
    a_most: torch.Tensor | None = None,
    b_most: torch.Tensor | None = None,
) -> torch.Tensor:
    """q(a) @ q(b).T for a [M, K] and b [N, K], in a's dtype."""
    width = max(Format.parse(a_format).columns, Format.parse(b_format).columns, 1)
    missing = -a.shape[1] % width
    if missing:
        a, b = F.pad(a, (0, missing)), F.pad(b, (0, missing))
    first = quantize(a, a_format, nonfinite="keep", most=a_most)
    second = quantize(b, b_format, nonfinite="keep", most=b_most)
    way = way_for(a.device, first.format, second.format, second.shape, a.dtype)
    if way == "emulated":
        return dequantize(first, a.dtype) @ dequantize(second, a.dtype).t()
    return scaled_product(way, first, second.codes, second.scales, a.dtype, second.format.element)


@torch.library.custom_op("thunder::linear_float8", mutates_args=())
def linear_float8(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],  # noqa: UP045  (torch.library reads the annotations)
    x_most: Optional[torch.Tensor],  # noqa: UP045
    weight_most: Optional[torch.Tensor],  # noqa: UP045
    forward: str,
    backward: str,
) -> torch.Tensor:
    """See the module's docstring; `forward` and `backward` are formats as texts."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] == 0:
        return x.new_empty((*x.shape[:-1], weight.shape[0]))
    out = quantized_product(rows, weight.to(x.dtype), forward, forward, x_most, weight_most)
    out = out if bias is None else out + bias.to(out.dtype)
    return out.view(*x.shape[:-1], weight.shape[0])


@linear_float8.register_fake
def _(x, weight, bias, x_most, weight_most, forward, backward):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("thunder::linear_float8_backward", mutates_args=())
def linear_float8_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    x_most: Optional[torch.Tensor],  # noqa: UP045
    weight_most: Optional[torch.Tensor],  # noqa: UP045
    forward: str,
    backward: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients for x and weight."""
    rows = gradient.reshape(-1, gradient.shape[-1])
    inputs = x.reshape(-1, x.shape[-1])
    if rows.shape[0] == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format), torch.zeros_like(weight)
    narrow = weight.to(rows.dtype)
    for_x = quantized_product(rows, narrow.t().contiguous(), backward, forward, None, weight_most)
    for_weight = quantized_product(rows.t().contiguous(), inputs.t().contiguous(), backward, forward, None, x_most)
    return for_x.view(x.shape), for_weight.to(weight.dtype)


@linear_float8_backward.register_fake
def _(gradient, x, weight, x_most, weight_most, forward, backward):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, x_most, weight_most, forward, backward = inputs
    ctx.save_for_backward(x, weight, x_most, weight_most)
    ctx.formats, ctx.bias_dtype = (forward, backward), None if bias is None else bias.dtype


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    x, weight, x_most, weight_most = ctx.saved_tensors
    for_x, for_weight = torch.ops.thunder.linear_float8_backward(gradient, x, weight, x_most, weight_most, *ctx.formats)
    for_bias = None
    if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
        for_bias = gradient.flatten(0, -2).sum(0).to(ctx.bias_dtype)
    return for_x, for_weight, for_bias, None, None, None, None


linear_float8.register_autograd(_backward, setup_context=_setup_context)
