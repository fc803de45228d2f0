"""A linear layer whose weight is quantised.

    out[m, n] = bias[n] + sum_k x[m, k] * weight[n, k],    weight as `dequantize_weight` has it

    x: [..., K]    codes: uint8 [N, packed K]    bias: [N]    out: [..., N] of x's dtype

On CUDA tensors few rows are multiplied by a kernel that dequantises as it reads; for many rows the weight is
dequantised first, into memory of one layer.  Elsewhere the weight is dequantised by plain PyTorch.

Gradients: x and bias have theirs (as if the weight were a float matrix); the quantised weight has none.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch.nn import functional as F

from thunder.precision.choose_kernel import kernels_for
from thunder.precision.operators.dequantize import dequantize_weight


@torch.library.custom_op("thunder::linear_weight_only", mutates_args=())
def linear_weight_only(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: Optional[torch.Tensor],  # noqa: UP045  (torch.library reads the annotations)
    tensor_scale: Optional[torch.Tensor],  # noqa: UP045
    bias: Optional[torch.Tensor],  # noqa: UP045
    format: str,
) -> torch.Tensor:
    """See the module's docstring."""
    kernels = kernels_for(x, format, x.shape[-1], x.dtype)
    if kernels is not None and kernels.serves(x, codes, format):
        out: torch.Tensor | None = kernels.linear(x, codes, scales, zeros, tensor_scale, bias, format)
        if out is not None:
            return out
    return linear_weight_only_reference(x, codes, scales, zeros, tensor_scale, bias, format)


@linear_weight_only.register_fake
def _(x, codes, scales, zeros, tensor_scale, bias, format):
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


def linear_weight_only_reference(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    tensor_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    format: str,
) -> torch.Tensor:
    """The same with the weight dequantised first."""
    weight = dequantize_weight(codes, scales, zeros, tensor_scale, format, x.dtype)
    return F.linear(x, weight, bias.to(x.dtype) if bias is not None else None)


def save_weight(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keeps what `differentiate` needs of the operator's arguments."""
    x, codes, scales, zeros, tensor_scale, bias, format = inputs
    ctx.save_for_backward(codes, scales, zeros, tensor_scale)
    ctx.format, ctx.bias_dtype = format, None if bias is None else bias.dtype


def differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    """The gradients of x and bias, by place among the operator's arguments."""
    codes, scales, zeros, tensor_scale = ctx.saved_tensors
    for_x = for_bias = None
    if ctx.needs_input_grad[0]:
        weight = torch.ops.thunder.dequantize_weight(codes, scales, zeros, tensor_scale, ctx.format, gradient.dtype)
        for_x = gradient @ weight
    if ctx.bias_dtype is not None and ctx.needs_input_grad[5]:
        for_bias = gradient.flatten(0, -2).sum(0).to(ctx.bias_dtype)
    return for_x, None, None, None, None, for_bias, None


linear_weight_only.register_autograd(differentiate, setup_context=save_weight)
