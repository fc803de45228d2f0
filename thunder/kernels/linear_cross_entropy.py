"""The last linear layer and the cross-entropy after it, without holding what lies between for all tokens at once.

    logits = hidden @ weight.T    loss = cross_entropy(logits, target)

    hidden: [..., K]    weight: [V, K]    target: int64, one for each row of hidden    loss: float32 []

`linear_cross_entropy`: the logits of a chunk of rows at a time exist, and become their gradient in place; the
gradients of hidden and weight are computed then and there, with g the gradient of the chunk's logits for a gradient of
1 of the loss:

    grad_hidden[chunk] = g @ weight    grad_weight += g.T @ hidden[chunk]

and multiplied by the gradient of the loss later.  Three products as in the usual form, none twice.

`linear_cross_entropy_with_logits`: for programs that return the logits.  They are kept, their gradient is not: the
backward makes it for a chunk of rows at a time.

A chunk's logits take at most `CHUNK_BYTES`.  The gradient of the weight is added up in the type of the weight, or in
float32 with `wide_sum`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from thunder.kernels import cross_entropy as softmax
from thunder.kernels.launch import as_rows
from thunder.kernels.registry import register_library_kernel

CHUNK_BYTES = 5 << 27


def _chunks(rows: int, vocabulary: int, element_size: int) -> Iterator[slice]:
    """Slices of equal size, but for the last; a multiple of 128 rows where there are so many."""
    if rows == 0:
        return
    most = max(1, CHUNK_BYTES // (vocabulary * element_size))
    count = -(-rows // most)
    size = -(-rows // max(1, count))
    size = -(-size // 128) * 128 if size >= 128 else size
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


class _WeightGradient:
    """Adds up grad_weight over chunks."""

    def __init__(self, weight: torch.Tensor, *, wide: bool) -> None:
        self.weight = weight
        self.dtype = torch.float32 if wide else weight.dtype
        self.total: torch.Tensor | None = None

    def add(self, grad: torch.Tensor, hidden: torch.Tensor) -> None:
        """Adds grad.T @ hidden."""
        if self.dtype is not grad.dtype:
            product = torch.mm(grad.t(), hidden).to(self.dtype)
            self.total = product if self.total is None else self.total.add_(product)
        elif self.total is None:
            self.total = torch.mm(grad.t(), hidden)
        else:
            self.total.addmm_(grad.t(), hidden)

    def result(self) -> torch.Tensor:
        total = self.total if self.total is not None else torch.zeros_like(self.weight)
        return total.to(self.weight.dtype)


@torch.library.custom_op("thunder::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int = -100,
    reduction: str = "mean",
    gradients: bool = True,
    wide_sum: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, and for a gradient of 1 of the loss the gradients of hidden and weight, empty without `gradients`)."""
    target = target.reshape(-1).contiguous()
    rows = as_rows(hidden)
    count = softmax.divisor(target, ignore_index, reduction)
    scale = 1.0 / count
    losses = []
    grad_hidden = torch.empty(rows.shape if gradients else (0,), dtype=hidden.dtype, device=hidden.device)
    grad_weight = _WeightGradient(weight, wide=wide_sum)
    for chunk in _chunks(rows.shape[0], weight.shape[0], hidden.element_size()):
        logits = F.linear(rows[chunk], weight)
        if gradients:
            losses.append(softmax.losses_and_gradients_in_place(logits, target[chunk], scale, ignore_index).sum())
            torch.mm(logits, weight, out=grad_hidden[chunk])
            grad_weight.add(logits, rows[chunk])
        else:
            losses.append(softmax.row_losses(logits, target[chunk], ignore_index)[0].sum())
    loss = torch.stack(losses).sum() / count if losses else 0.0 / count
    if not gradients:
        return loss, grad_hidden, torch.empty_like(grad_hidden)
    return loss, grad_hidden.view(hidden.shape), grad_weight.result()


@linear_cross_entropy.register_fake
def _(hidden, weight, target, ignore_index=-100, reduction="mean", gradients=True, wide_sum=False):
    loss = hidden.new_empty((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    if not gradients:
        return loss, hidden.new_empty(0), hidden.new_empty(0)
    return loss, hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


@torch.library.custom_op("thunder::linear_cross_entropy_with_logits", mutates_args=())
def linear_cross_entropy_with_logits(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logits, loss, log-sum-exp of each row)."""
    target = target.reshape(-1).contiguous()
    logits = F.linear(hidden, weight).contiguous()
    losses, lse = softmax.row_losses(as_rows(logits), target, ignore_index)
    return logits, losses.sum() / softmax.divisor(target, ignore_index, reduction), lse


@torch.library.custom_op("thunder::linear_cross_entropy_backward", mutates_args=())
def linear_cross_entropy_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    lse: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    reduction: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of hidden and weight for the gradient of the loss."""
    target = target.reshape(-1).contiguous()
    rows, logit_rows = as_rows(hidden), as_rows(logits)
    scale = grad / softmax.divisor(target, ignore_index, reduction)
    grad_hidden = torch.empty(rows.shape, dtype=hidden.dtype, device=hidden.device)
    grad_weight = _WeightGradient(weight, wide=False)
    for chunk in _chunks(rows.shape[0], weight.shape[0], hidden.element_size()):
        out = torch.empty(logit_rows[chunk].shape, dtype=logits.dtype, device=logits.device)
        softmax.row_gradients(logit_rows[chunk], target[chunk], lse[chunk], scale, ignore_index, out)
        torch.mm(out, weight, out=grad_hidden[chunk])
        grad_weight.add(out, rows[chunk])
    return grad_hidden.view(hidden.shape), grad_weight.result()


@linear_cross_entropy_with_logits.register_fake
def _(hidden, weight, target, ignore_index=-100, reduction="mean"):
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))
    return logits, hidden.new_empty((), dtype=wide), hidden.new_empty(target.numel(), dtype=wide)


@linear_cross_entropy_backward.register_fake
def _(grad, logits, lse, hidden, weight, target, ignore_index, reduction):
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    grad_hidden, grad_weight = ctx.saved_tensors
    return (
        (grad * grad_hidden).to(grad_hidden.dtype),
        (grad * grad_weight).to(grad_weight.dtype),
        *(None,) * 5,
    )


def _save_with_logits(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, target, ctx.ignore_index, ctx.reduction = inputs
    ctx.save_for_backward(output[0], output[2], hidden, weight, target)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _differentiate_with_logits(
    ctx: Any, grad_logits: torch.Tensor | None, grad: torch.Tensor | None, _: Any
) -> tuple[Any, ...]:
    _, _, hidden, weight, _ = ctx.saved_tensors
    grad_hidden = grad_weight = None
    if grad is not None:
        grad_hidden, grad_weight = torch.ops.thunder.linear_cross_entropy_backward(
            grad, *ctx.saved_tensors, ctx.ignore_index, ctx.reduction
        )
    if grad_logits is not None:
        rows = grad_logits.reshape(-1, grad_logits.shape[-1])
        from_logits = torch.mm(rows, weight).view(hidden.shape)
        weight_from_logits = torch.mm(rows.t(), hidden.reshape(-1, hidden.shape[-1]))
        grad_hidden = from_logits if grad_hidden is None else grad_hidden + from_logits
        grad_weight = weight_from_logits if grad_weight is None else grad_weight + weight_from_logits
    return grad_hidden, grad_weight, None, None, None


linear_cross_entropy.register_autograd(_differentiate, setup_context=_save)
linear_cross_entropy_with_logits.register_autograd(_differentiate_with_logits, setup_context=_save_with_logits)


def linear_cross_entropy_reference(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, loss) in plain PyTorch."""
    logits = F.linear(hidden, weight)
    return logits, softmax.cross_entropy_reference(logits, target, ignore_index, reduction)[0]


def linear_cross_entropy_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    reduction: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The loss alone."""
    needed = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return torch.ops.thunder.linear_cross_entropy(hidden, weight, target, ignore_index, reduction, needed)[0].to(dtype)


def logits_and_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and the loss."""
    found = torch.ops.thunder.linear_cross_entropy_with_logits(hidden, weight, target, ignore_index, reduction)
    return found[0], found[1].to(dtype)


def loss_of_tokens(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    reduction: str,
    dtype: torch.dtype,
    tokens: Any,
) -> torch.Tensor:
    """The loss alone, of the tokens that an index picks, as programs do that leave out the last one."""
    return linear_cross_entropy_loss(hidden[tokens], weight, target, ignore_index, reduction, dtype)


def _check(
    hidden: Any, weight: Any, target: Any, ignore_index: Any, reduction: Any, wide: Any, rows: Any, size: Any,
    last: Any, tokens: Any = None,
) -> bool:  # fmt: skip
    if not all(isinstance(tensor, torch.Tensor) for tensor in (hidden, weight, target)) or weight.dim() != 2:
        return False
    if hidden.dtype != weight.dtype or wide not in (None, torch.float32):
        return False
    logits = torch.empty((*hidden.shape[:-1], weight.shape[0]), dtype=hidden.dtype, device="meta")
    if tokens is not None:
        if not _leaves_vectors_whole(tokens, logits.dim()):
            return False
        logits = logits[tokens]
    if not softmax.is_supported(logits, target, ignore_index, reduction):
        return False
    return softmax.flattens(logits, rows, size, last)


def _leaves_vectors_whole(index: Any, dimensions: int) -> bool:
    """Whether an index of slices takes nothing from the last dimension, so that it fits the hidden states as well."""
    parts = index if isinstance(index, tuple) else (index,)
    if not all(part is Ellipsis or (isinstance(part, slice) and _is_constant(part)) for part in parts):
        return False
    if parts.count(Ellipsis) > 1:
        return False
    if Ellipsis in parts:
        return parts[-1] == slice(None)
    return len(parts) < dimensions or parts[-1] == slice(None)


def _is_constant(part: slice) -> bool:
    return all(bound is None or type(bound) is int for bound in (part.start, part.stop, part.step))


def _arguments(
    hidden: Any, weight: Any, target: Any, ignore_index: int, reduction: str, wide: Any = None, **_: Any
) -> Any:
    return hidden, weight, target, ignore_index, reduction, wide or hidden.value.dtype


def _arguments_of_tokens(
    hidden: Any, weight: Any, target: Any, ignore_index: int, reduction: str, wide: Any, tokens: Any, **_: Any
) -> Any:
    return hidden, weight, target, ignore_index, reduction, wide or hidden.value.dtype, tokens


def _with_logits(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The logits and the loss, written like this."""

    def pattern(hidden, weight, target, ignore_index, reduction, wide, rows, size, last):
        logits = F.linear(hidden, weight)
        return logits, loss(logits, target, ignore_index, reduction, wide, rows, size, last)

    return pattern


def _alone(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss alone, written like this."""

    def pattern(hidden, weight, target, ignore_index, reduction, wide, rows, size, last):
        return _with_logits(loss)(hidden, weight, target, ignore_index, reduction, wide, rows, size, last)[1]

    return pattern


def _of_tokens(loss: Callable[..., Any], *, contiguous: bool, wide_first: bool) -> Callable[..., Any]:
    """The loss of some of the tokens, written like this."""

    def pattern(hidden, weight, target, ignore_index, reduction, wide, rows, size, last, tokens):
        logits = F.linear(hidden, weight)
        if wide_first:
            logits = logits.to(wide)
        logits = logits[tokens]
        if contiguous:
            logits = logits.contiguous()
        return loss(logits, target, ignore_index, reduction, wide, rows, size, last)

    return pattern


register_library_kernel(
    "linear_cross_entropy",
    [_alone(loss) for loss in softmax.SPELLINGS],
    linear_cross_entropy_loss,
    check=_check,
    arguments=_arguments,
)
register_library_kernel(
    "linear_cross_entropy_of_tokens",
    [
        _of_tokens(softmax.spelling(flattening, None), contiguous=contiguous, wide_first=wide_first)
        for flattening in softmax.FLATTENINGS
        for contiguous in (True, False)
        for wide_first in (True, False)
    ],
    loss_of_tokens,
    check=_check,
    arguments=_arguments_of_tokens,
)
register_library_kernel(
    "linear_cross_entropy_with_logits",
    [_with_logits(loss) for loss in softmax.SPELLINGS],
    logits_and_loss,
    check=_check,
    arguments=_arguments,
)
