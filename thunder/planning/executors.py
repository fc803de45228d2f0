"""The executors that put a program into the form that it has on a GPU, on a machine that has none.

Input: a program on the meta device.  Output: the regions that thunder's fuser makes of it, and for the few operators
that PyTorch does otherwise on the meta device, what it does on NVIDIA's GPUs.  Nothing is compiled and nothing runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from thunder.executors.executor import Executor
from thunder.executors.triton_fusion import TritonExecutor
from thunder.trace import Op, Region, Var


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`scaled_dot_product_attention` as one operator; heads of keys and values that are fewer are not repeated."""
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    attended: torch.Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, attn_mask, needs_gradient, dropout_p, is_causal, scale=scale
    )[0]
    return attended


def negative_likelihood(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """`nll_loss` of class numbers, which has no gradient on the meta device; weights of classes change no cost."""
    is_kept = target != ignore_index
    numbers = torch.where(is_kept, target, 0).unsqueeze(1)
    losses = is_kept * -input.gather(1, numbers).squeeze(1)
    if reduction == "none":
        return losses
    return losses.sum() / is_kept.sum() if reduction == "mean" else losses.sum()


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`cross_entropy` of class numbers by `negative_likelihood`."""
    likelihoods = torch.nn.functional.log_softmax(input, 1)
    return negative_likelihood(likelihoods, target, ignore_index=ignore_index, reduction=reduction)


def where(condition: torch.Tensor, input: torch.Tensor | float, other: torch.Tensor | float) -> torch.Tensor:
    """`torch.where` with tensors for numbers, with which it has no gradient on the meta device."""
    tensor = input if isinstance(input, torch.Tensor) else other
    dtype = tensor.dtype if isinstance(tensor, torch.Tensor) else torch.get_default_dtype()
    sides = [
        side if isinstance(side, torch.Tensor) else torch.full((), side, dtype=dtype, device=condition.device)
        for side in (input, other)
    ]
    return torch.where(condition, sides[0], sides[1])


_STAND_INS: dict[str, Callable[..., torch.Tensor]] = {
    "scaled_dot_product_attention": attention,
    "fused_attention": attention,
    "nll_loss": negative_likelihood,
    "cross_entropy": cross_entropy,
    "where": where,
}


class OperatorStandIns(Executor):
    """Takes operators at the level of torch that are others on the meta device than on a GPU."""

    name = "planned operators"

    def can_execute(self, op: Op) -> bool:
        if op.name == "where":
            return len(op.args) == 3 and not op.kwargs and sum(isinstance(side, Var) for side in op.args[1:]) == 1
        if op.name not in _STAND_INS or not all(isinstance(argument, Var) for argument in op.args[:2]):
            return False
        if _STAND_INS[op.name] is attention:
            return all(var.value.dim() == 4 for var in op.args[:3])
        return op.args[0].value.dim() > 1 and not op.args[1].value.is_floating_point()

    def implementation(self, op: Op) -> Callable[..., Any]:
        return _STAND_INS[op.name]


class FusionStandIn(TritonExecutor):
    """Chooses the regions that the `triton` executor would, and leaves it at that."""

    def unavailable_reason(self) -> str | None:
        return None if importlib.util.find_spec("triton") is not None else "Triton is not installed"

    @property
    def device_type(self) -> str:
        return "meta"

    def fuse(self, regions: list[Region]) -> None:
        """The sources of kernels are enough."""
