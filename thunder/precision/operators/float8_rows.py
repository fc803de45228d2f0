"""Inference in 8 bits with a scale for each row: quantising the input is an operation of its own.

    quantize_rows         y [..., K] -> codes [..., K] of e4m3, scales [..., 1]
                          y = x,  or RMSNorm(x) * norm_weight,  or act(x) * up
    linear_float8_rows    codes [..., K], scales [..., 1], the weight's [N, K] and [N, 1] -> [..., N] of `dtype`

What several layers of one input quantise is computed once, and what makes the input becomes a part of quantising it
(`fuse_quantisation`).  `linear_dynamic` is both in one, for other formats and where there are gradients.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch.nn import functional as F

from thunder.kernels.plain_forms import ACTIVATIONS, normalised
from thunder.precision.choose_kernel import float8_kernels_for
from thunder.precision.formats import Format, Quantized, dequantize, get_format, quantize
from thunder.precision.scaled_product import scaled_product, way_for

ROWWISE = str(get_format("fp8"))


@torch.library.custom_op("thunder::quantize_rows", mutates_args=())
def quantize_rows(
    x: torch.Tensor,
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    eps: float = 1e-6,
    up: Optional[torch.Tensor] = None,  # noqa: UP045
    activation: str = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the module's docstring; at most one of `norm_weight` and `up` is given."""
    kernels = float8_kernels_for(x)
    if kernels is not None and x.numel() and kernels.holds_row(x):
        result: tuple[torch.Tensor, torch.Tensor] = kernels.quantize_rows(x, norm_weight, eps, up, activation)
        return result
    wide = torch.promote_types(x.dtype, torch.float32)
    y = normalised(x.to(wide), norm_weight, eps)
    if up is not None:
        y = ACTIVATIONS[activation](y) * up.to(wide)
    rows = y.to(x.dtype).reshape(-1, x.shape[-1])
    if rows.shape[0] == 0:
        return x.new_empty(x.shape, dtype=torch.uint8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    stored = quantize(rows, ROWWISE, nonfinite="keep")
    return stored.codes.view(x.shape), stored.scales.view(*x.shape[:-1], 1)


@quantize_rows.register_fake
def _(x, norm_weight=None, eps=1e-6, up=None, activation="none"):
    return x.new_empty(x.shape, dtype=torch.uint8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("thunder::linear_float8_rows", mutates_args=())
def linear_float8_rows(
    codes: torch.Tensor,
    scales: torch.Tensor,
    weight_codes: torch.Tensor,
    weight_scales: torch.Tensor,
    bias: Optional[torch.Tensor],  # noqa: UP045
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the module's docstring."""
    shape, width = (weight_codes.shape[0], weight_codes.shape[1]), codes.shape[-1]
    rows = codes.reshape(-1, width)
    if rows.shape[0] == 0:
        return codes.new_empty((*codes.shape[:-1], shape[0]), dtype=dtype)
    kind = Format.parse(ROWWISE)
    first = Quantized(rows, scales.reshape(-1, 1), None, None, (rows.shape[0], width), kind)
    way = way_for(codes.device, kind, kind, shape, dtype)
    if way != "emulated":
        out = scaled_product(way, first, weight_codes, weight_scales, dtype)
        out = out if bias is None else out + bias.to(dtype)
    else:
        second = Quantized(weight_codes, weight_scales, None, None, shape, kind)
        out = F.linear(dequantize(first, dtype), dequantize(second, dtype), None if bias is None else bias.to(dtype))
    return out.view(*codes.shape[:-1], shape[0])


@linear_float8_rows.register_fake
def _(codes, scales, weight_codes, weight_scales, bias, dtype):
    return codes.new_empty((*codes.shape[:-1], weight_codes.shape[0]), dtype=dtype)
