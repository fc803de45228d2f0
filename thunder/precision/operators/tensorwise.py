"""Training in 8 bits with one scale for a tensor: quantising is an operation of its own.

    quantize_float8   x [R, C] -> codes [R, C], columns = codes.T [C, R rounded up to 16], scale []
    float8_product    a [M, K], b [N, K] of codes, with scales -> a @ b.T [M, N]
    linear_float8_tensorwise
        out     = x_codes @ weight_codes.T + bias
        for x   = q(gradient) @ weight_columns.T
        weight' = q(gradient).columns @ x_columns.T
        bias'   = sum over rows of gradient

What several layers of one input quantise is computed once (it is an operation like any other), and what the backward
part multiplies along the other dimension is written by the same kernel: 8 bits of it are kept in place of 16.
`linear_float8` has the general form, and what a format means; gradients are passed straight through quantising.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch.nn import functional as F

from thunder.precision.choose_kernel import float8_kernels_for
from thunder.precision.formats import Format, Quantized, dequantize, quantize
from thunder.precision.scaled_product import scaled_product, way_for

MULTIPLE = 16


def _format(element: str) -> Format:
    return Format(element, 0, 0)


@torch.library.custom_op("thunder::quantize_float8", mutates_args=())
def quantize_float8(
    x: torch.Tensor,
    most: Optional[torch.Tensor],  # noqa: UP045  (torch.library reads the annotations)
    element: str,
    transposed: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes, columns, scale) of x [R, C]: see the module's docstring; `columns` is empty unless `transposed`."""
    kernels = float8_kernels_for(x)
    if kernels is not None and x.numel():
        result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = kernels.quantize_float8(x, most, element, transposed)
        return result
    stored = quantize(x, _format(element), nonfinite="keep", most=most)
    columns = x.new_empty(0, dtype=torch.uint8)
    if transposed:
        columns = F.pad(stored.codes.t(), (0, -x.shape[0] % MULTIPLE)).contiguous()
    return stored.codes, columns, stored.scales.view(())


@quantize_float8.register_fake
def _(x, most, element, transposed):
    length = (x.shape[0] + MULTIPLE - 1) // MULTIPLE * MULTIPLE
    columns = x.new_empty((x.shape[1], length) if transposed else (0,), dtype=torch.uint8)
    return x.new_empty(x.shape, dtype=torch.uint8), columns, x.new_empty((), dtype=torch.float32)


@torch.library.custom_op("thunder::float8_product", mutates_args=())
def float8_product(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_element: str,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_element: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """a [M, K] @ b.T [K, N] of codes with one scale each, as `dtype`."""
    shape = (b.shape[0], b.shape[1])
    way = way_for(a.device, _format(a_element), _format(b_element), shape, dtype)
    first = Quantized(a, a_scale, None, None, (a.shape[0], a.shape[1]), _format(a_element))
    if way == "tensorwise":
        return scaled_product(way, first, b, b_scale, dtype, b_element)
    first.scales = a_scale.view(1, 1)
    second = Quantized(b, b_scale.view(1, 1), None, None, shape, _format(b_element))
    return dequantize(first, dtype) @ dequantize(second, dtype).t()


@float8_product.register_fake
def _(a, a_scale, a_element, b, b_scale, b_element, dtype):
    return a.new_empty((a.shape[0], b.shape[0]), dtype=dtype)


@torch.library.custom_op("thunder::linear_float8_tensorwise", mutates_args=())
def linear_float8_tensorwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],  # noqa: UP045
    x_codes: torch.Tensor,
    x_columns: torch.Tensor,
    x_scale: torch.Tensor,
    weight_codes: torch.Tensor,
    weight_columns: torch.Tensor,
    weight_scale: torch.Tensor,
    forward: str,
    backward: str,
) -> torch.Tensor:
    """See the module's docstring; `forward` and `backward` are elements. x and weight say whose gradients these are."""
    out = float8_product(x_codes, x_scale, forward, weight_codes, weight_scale, forward, x.dtype)
    out = out if bias is None else out + bias.to(out.dtype)
    return out.view(*x.shape[:-1], weight.shape[0])


@linear_float8_tensorwise.register_fake
def _(x, weight, bias, x_codes, x_columns, x_scale, weight_codes, weight_columns, weight_scale, forward, backward):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, _, x_columns, x_scale, _, weight_columns, weight_scale, forward, backward = inputs
    ctx.save_for_backward(x_columns, x_scale, weight_columns, weight_scale)
    ctx.elements, ctx.shape, ctx.weight_dtype = (forward, backward), x.shape, weight.dtype
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    x_columns, x_scale, weight_columns, weight_scale = ctx.saved_tensors
    forward, backward = ctx.elements
    for_x = for_weight = for_bias = None
    rows = gradient.reshape(-1, gradient.shape[-1])
    codes, columns, scale = torch.ops.thunder.quantize_float8(rows, None, backward, ctx.needs_input_grad[1])
    product = torch.ops.thunder.float8_product
    if ctx.needs_input_grad[0]:
        for_x = product(codes, scale, backward, weight_columns, weight_scale, forward, gradient.dtype).view(ctx.shape)
    if ctx.needs_input_grad[1]:
        for_weight = product(columns, scale, backward, x_columns, x_scale, forward, gradient.dtype)
        for_weight = for_weight.to(ctx.weight_dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
        for_bias = rows.sum(0).to(ctx.bias_dtype)
    return for_x, for_weight, for_bias, *[None] * 8


linear_float8_tensorwise.register_autograd(_backward, setup_context=_setup_context)


def linear_in_float8(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    x_most: torch.Tensor | None,
    weight_most: torch.Tensor | None,
    forward: str,
    backward: str,
) -> torch.Tensor:
    """A linear layer [..., K] -> [..., N]; `forward` and `backward` are elements, N and K multiples of 16."""
    transposed = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    rows = x.detach().reshape(-1, x.shape[-1])
    of_x = quantize_float8(rows, x_most, forward, transposed)
    of_weight = quantize_float8(weight.detach().to(x.dtype), weight_most, forward, transposed)
    return linear_float8_tensorwise(x, weight, bias, *of_x, *of_weight, forward, backward)
