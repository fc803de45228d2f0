"""Several linear layers of one input as one product.

    out[..., :] = concat_i(h @ weights[i].T + biases[i])

with h = x, or, when `norm_weight` is given, h = x * norm_weight / sqrt(mean(x^2) + eps) (RMSNorm; few rows only).

    x: [..., K]    weights[i]: [N_i, K]    biases[i]: [N_i] (all or none)    out: [..., sum_i N_i]

The weights are expected to lie behind one another in memory, as `merge_projections` places them: then they are one
matrix.  That is looked up at each call; weights that lie apart (a user has replaced one) are multiplied one by one.

`constant_weights`: see `gemv`.  This is for inference: it has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch.nn import functional as F

from thunder.kernels import gemv
from thunder.kernels.launch import as_rows, empty_contiguous, runs_triton
from thunder.kernels.placement import merged
from thunder.kernels.plain_forms import normalised


@torch.library.custom_op("thunder::merged_linear", mutates_args=())
def merged_linear(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    eps: float = 1e-6,
    constant_weights: bool = False,
) -> torch.Tensor:
    """Several linear layers of one input; `biases` is empty or has one for each weight."""
    weight, bias = merged(weights), merged(biases) if biases else None
    if not (runs_triton(x) and gemv.is_supported(x, *weights)):
        if norm_weight is not None:
            x = normalised(x.float(), norm_weight, eps).to(x.dtype)
        if weight is not None and (bias is not None or not biases):
            return F.linear(x, weight, bias)
        parts = [F.linear(x, w, biases[i] if biases else None) for i, w in enumerate(weights)]
        return torch.cat(parts, -1)
    if weight is not None and (bias is not None or not biases):
        return gemv.launch(x, weight, None, bias, None, norm_weight, eps, "none", ahead=constant_weights)
    out = empty_contiguous(x, (*x.shape[:-1], sum(w.shape[0] for w in weights)))
    start, rows = 0, as_rows(out)
    for i, w in enumerate(weights):
        part = rows[:, start : start + w.shape[0]]
        gemv.launch(x, w, None, biases[i] if biases else None, None, norm_weight, eps, "none", out=part)
        start += w.shape[0]
    return out


@merged_linear.register_fake
def _(x, weights, biases, norm_weight=None, eps=1e-6, constant_weights=False):
    return x.new_empty((*x.shape[:-1], sum(weight.shape[0] for weight in weights)))


MERGED_LINEAR = torch.ops.thunder.merged_linear.default


def merged_linear_reference(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """`merged_linear` in plain PyTorch."""
    bias = torch.cat(tuple(biases)) if biases else None
    return gemv.gemv_reference(x, torch.cat(tuple(weights)), bias, None, norm_weight, eps)
