"""Several linear layers of one input whose weights are quantised alike, as one operation.

    out[..., :] = concat_i(linear_weight_only(x, weight_i, bias_i))

    x: [..., K]    codes[i]: uint8 [N_i, packed K]    biases[i]: [N_i] (all or none)    out: [..., sum_i N_i]

For one row on a GPU, one kernel reads all weights where they lie.  This is for inference: it has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thunder.precision.choose_kernel import kernels_for
from thunder.precision.operators.weight_only import linear_weight_only


@torch.library.custom_op("thunder::linear_weight_only_merged", mutates_args=())
def linear_weight_only_merged(
    x: torch.Tensor,
    codes: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor],
    zeros: Sequence[torch.Tensor],
    tensor_scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    format: str,
) -> torch.Tensor:
    """See the module's docstring; `zeros`, `tensor_scales` and `biases` are empty or have one for each weight."""
    parts = [
        (codes[i], scales[i], *(many[i] if many else None for many in (zeros, tensor_scales, biases)))
        for i in range(len(codes))
    ]
    kernels = kernels_for(x, format, x.shape[-1], x.dtype)
    if kernels is not None and all(kernels.serves(x, part[0], format) for part in parts):
        out: torch.Tensor = kernels.linear_merged(x, parts, format)
        return out
    return torch.cat([linear_weight_only(x, *part, format) for part in parts], -1)


@linear_weight_only_merged.register_fake
def _(x, codes, scales, zeros, tensor_scales, biases, format):
    return x.new_empty((*x.shape[:-1], sum(part.shape[0] for part in codes)))
