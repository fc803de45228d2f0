"""A linear layer whose weight is quantised and whose input is quantised at every call.

    out[m, n] = bias[n] + sum_k q(x)[m, k] * weight[n, k]

    q: each row of x in blocks of `activation`'s format, scales from the rows themselves
    x: [..., K]    codes: uint8 [N, packed K]    bias: [N]    out: [..., N] of x's dtype

Where the device multiplies the format (`scaled_product.way_for`), it does; elsewhere both sides are dequantised and
multiplied in x's dtype, which holds e4m3 and e2m1 with powers of 2 for scales exactly.  One row on a GPU is left as it
is: reading the weight is all that costs then.

Gradients: x has that of the linear layer with the quantised weight (straight through q), bias its own.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch.nn import functional as F

from thunder.precision.formats import Format, Quantized, dequantize, quantize
from thunder.precision.operators.dequantize import dequantize_weight
from thunder.precision.operators.float8_rows import ROWWISE, quantize_rows
from thunder.precision.operators.weight_only import differentiate, linear_weight_only, save_weight
from thunder.precision.scaled_product import scaled_product, way_for


@torch.library.custom_op("thunder::linear_dynamic", mutates_args=())
def linear_dynamic(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: Optional[torch.Tensor],  # noqa: UP045  (torch.library reads the annotations)
    tensor_scale: Optional[torch.Tensor],  # noqa: UP045
    bias: Optional[torch.Tensor],  # noqa: UP045
    format: str,
    activation: str,
) -> torch.Tensor:
    """See the module's docstring."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] == 0:
        return x.new_empty((*x.shape[:-1], codes.shape[0]))
    if x.is_cuda and rows.shape[0] == 1:
        return linear_weight_only(x, codes, scales, zeros, tensor_scale, bias, format)
    if activation == ROWWISE:
        own_codes, own_scales = quantize_rows(rows)
        shape = (rows.shape[0], rows.shape[1])
        quantized = Quantized(own_codes, own_scales, None, None, shape, Format.parse(activation))
    else:
        quantized = quantize(rows, activation, nonfinite="keep")
    way = way_for(x.device, Format.parse(format), quantized.format, (codes.shape[0], x.shape[-1]), x.dtype)
    if way != "emulated":
        out = scaled_product(way, quantized, codes, scales, x.dtype)
        out = out if bias is None else out + bias.to(out.dtype)
    else:
        weight = dequantize_weight(codes, scales, zeros, tensor_scale, format, x.dtype)
        out = F.linear(dequantize(quantized, x.dtype), weight, bias.to(x.dtype) if bias is not None else None)
    return out.view(*x.shape[:-1], codes.shape[0])


@linear_dynamic.register_fake
def _(x, codes, scales, zeros, tensor_scale, bias, format, activation):
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    save_weight(ctx, inputs[:-1], output)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    return *differentiate(ctx, gradient), None


linear_dynamic.register_autograd(_backward, setup_context=_setup_context)
