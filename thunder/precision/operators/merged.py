"""Linear layers of one input whose weights are quantised alike, with what stands around them, as one operation.

    out[..., :] = concat_i(linear_weight_only(h, weight_i, bias_i))                          no activation
    out         = act(linear_weight_only(h, gate, ...)) * linear_weight_only(h, up, ...)     two weights, an activation
    out         = residual + the above

with h = x, or, when `norm_weight` is given, h = x * norm_weight / sqrt(mean(x^2) + eps) (RMSNorm).

    x: [..., K]    codes[i]: uint8 [N_i, packed K]    biases[i]: [N_i] (all or none)
    out: [..., sum_i N_i]; a gate's: [..., N]

For one row on a GPU, one kernel reads all weights where they lie.  `constant_weights`: see `thunder.kernels.gemv`.
This is for inference: it has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch

from thunder.kernels.plain_forms import ACTIVATIONS, normalised
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
    residual: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-6,
    activation: str = "none",
    constant_weights: bool = False,
) -> torch.Tensor:
    """See the module's docstring; `zeros`, `tensor_scales` and `biases` are empty or have one for each weight."""
    parts: list[tuple[Any, ...]] = [
        (codes[i], scales[i], *(many[i] if many else None for many in (zeros, tensor_scales, biases)))
        for i in range(len(codes))
    ]
    kernels = kernels_for(x, format, x.shape[-1], x.dtype)
    if kernels is not None and all(kernels.serves(x, part[0], format) for part in parts):
        around = {"residual": residual, "norm_weight": norm_weight, "eps": eps, "activation": activation}
        out: torch.Tensor | None = kernels.linear_merged(x, parts, format, ahead=constant_weights, **around)
        if out is not None:
            return out
    wide = torch.promote_types(x.dtype, torch.float32)
    hidden = normalised(x.to(wide), norm_weight, eps).to(x.dtype)
    outs = [linear_weight_only(hidden, *part, format) for part in parts]
    if activation == "none":
        out = torch.cat(outs, -1)
    else:
        gate, up = outs
        out = (ACTIVATIONS[activation](gate.to(wide)) * up.to(wide)).to(x.dtype)
    return out if residual is None else residual + out


@linear_weight_only_merged.register_fake
def _(x, codes, scales, zeros, tensor_scales, biases, format, residual=None, norm_weight=None, eps=1e-6,
      activation="none", constant_weights=False):  # fmt: skip
    outputs = sum(part.shape[0] for part in codes) if activation == "none" else codes[0].shape[0]
    return x.new_empty((*x.shape[:-1], outputs))
