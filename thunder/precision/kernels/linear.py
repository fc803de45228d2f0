"""Which kernel multiplies with a quantised weight, by the number of rows.

1 row                  `gemv`: decoding
2 to MOST_ROWS rows    `gemm`: decodes tile by tile; 4 and 8 bits, x of 16 bits
else                   `tiles` dequantises the weight, and PyTorch multiplies
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from thunder.kernels.launch import as_rows, rows_of
from thunder.precision.formats import Format
from thunder.precision.kernels import gemm, gemv, tiles
from thunder.precision.kernels.gemv import Weight

MOST_ROWS = 128
"""On an H100, beside bf16: 8 rows 1.04 to 1.67 times as fast, 128 rows 0.6 to 0.9 times, as dequantising or faster."""


def knows(format: str, columns: int) -> bool:
    """Whether the kernels decode a format: rows of whole words, groups that are no smaller than a word."""
    parsed = Format.parse(format)
    if parsed.element == "e8m0" or columns % 8:
        return False
    return parsed.columns == 0 or parsed.columns % 8 == 0


def serves(x: torch.Tensor, codes: torch.Tensor, format: str) -> bool:
    """Whether `linear` computes the product."""
    return knows(format, x.shape[-1]) and rows_of(x) >= 1 and codes.is_contiguous() and codes.device == x.device


def linear(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    tensor_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    format: str,
) -> torch.Tensor | None:
    """x [..., K] times the weight, plus the bias: [..., N] of x's dtype; None where dequantising first is the way."""
    weight = Weight(codes, scales, zeros, tensor_scale, bias)
    rows = rows_of(x)
    if rows == 1:
        return gemv.launch(as_rows(x).view(x.shape), [weight], format)
    if rows <= MOST_ROWS and gemm.serves(Format.parse(format), x.shape[-1], x.dtype):
        return gemm.launch(as_rows(x), weight, format).view(*x.shape[:-1], codes.shape[0])
    return None


def linear_merged(
    x: torch.Tensor,
    parts: Sequence[tuple[Any, ...]],
    format: str,
    *,
    ahead: bool,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    activation: str,
) -> torch.Tensor | None:
    """x [1, K] times several weights, each (codes, scales, zeros, tensor scale, bias), with what stands around them.

    None where no kernel computes it: more than one row, more weights than a launch takes.
    """
    if rows_of(x) != 1 or len(parts) > gemv.MOST_WEIGHTS:
        return None
    weights = [Weight(*part) for part in parts]
    return gemv.launch(
        as_rows(x).view(x.shape), weights, format, residual=residual, norm_weight=norm_weight, eps=eps,
        activation=activation, ahead=ahead,
    )  # fmt: skip


def dequantize(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    tensor_scale: torch.Tensor | None,
    format: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weight [N, K] as `dtype`."""
    columns = codes.shape[1] * 8 // Format.parse(format).bits
    return tiles.launch(codes, scales, zeros, tensor_scale, format, columns, dtype)
