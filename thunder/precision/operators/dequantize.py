"""The weight of a quantised layer as a float matrix.

    weight[n, k] = (element(codes[n, k]) - zeros[n, k / g]) * scales[n, k / g] * tensor_scale

    codes: uint8 [N, packed K]    scales: as the format has them    weight: [N, K] of `dtype`

On CUDA tensors, the formats that `kernels.tiles` knows are computed by a Triton kernel in one pass.
"""

from __future__ import annotations

from typing import Optional

import torch

from thunder.precision.choose_kernel import kernels_for
from thunder.precision.formats import Format, Quantized, dequantize


@torch.library.custom_op("thunder::dequantize_weight", mutates_args=())
def dequantize_weight(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: Optional[torch.Tensor],  # noqa: UP045  (torch.library reads the annotations)
    tensor_scale: Optional[torch.Tensor],  # noqa: UP045
    format: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the module's docstring."""
    kernels = kernels_for(codes, format, inputs_of(codes, format), dtype)
    if kernels is not None and codes.is_contiguous():
        weight: torch.Tensor = kernels.dequantize(codes, scales, zeros, tensor_scale, format, dtype)
        return weight
    return dequantize(as_quantized(codes, scales, zeros, tensor_scale, format), dtype)


@dequantize_weight.register_fake
def _(codes, scales, zeros, tensor_scale, format, dtype):
    return codes.new_empty((codes.shape[0], inputs_of(codes, format)), dtype=dtype)


def inputs_of(codes: torch.Tensor, format: str) -> int:
    """The columns K of the matrix with these codes."""
    return codes.shape[1] * 8 // Format.parse(format).bits


def as_quantized(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    tensor_scale: torch.Tensor | None,
    format: str,
) -> Quantized:
    """The parts as one matrix."""
    shape = (codes.shape[0], inputs_of(codes, format))
    return Quantized(codes, scales, zeros, tensor_scale, shape, Format.parse(format))
