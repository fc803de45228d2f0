"""Softmax cross-entropy.

    lse[n]  = log sum_v exp(logits[n, v])
    loss    = sum_n (lse[n] - logits[n, target[n]]) / count         over the n with target[n] != ignore_index
    grad[n, v] = scale * (exp(logits[n, v] - lse[n]) - [v = target[n]])          for these n, 0 for others

    logits, grad: [..., V]    target: int64, one for each row of logits    loss: float32 []    lse: float32 [N]

count is the number of these n for the reduction "mean", 1 for "sum"; scale is the gradient of the loss over count.
Arithmetic is in float32.  A program reads a row once in blocks, keeping a running maximum and sum; the gradient reads
it once more.  Logits of 16 bits are never held in 32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.launch import as_rows, runs_triton
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.registry import register_library_kernel

LARGEST_BLOCK = 8192


@triton.jit
def _log_sum_exp(row_ptr, V, BLOCK: tl.constexpr):
    """(m, log of the sum of exp(x - m)) of a row, with m its maximum."""
    v = tl.arange(0, BLOCK)
    maximum = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        x = tl.load(row_ptr + start + v, mask=start + v < V, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(maximum, x)
        base = tl.where(highest == float("-inf"), 0.0, highest)
        decay = tl.exp2((maximum - base) * 1.4426950408889634)
        total = total * decay + tl.exp2((x - base) * 1.4426950408889634)
        maximum = highest
    highest = tl.max(maximum, axis=0)
    total = tl.sum(total * tl.exp2((maximum - highest) * 1.4426950408889634), axis=0)
    return highest, tl.log(total)


@triton.jit
def _loss_kernel(logits_ptr, target_ptr, loss_ptr, lse_ptr, stride, V, ignore_index, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    target = tl.load(target_ptr + row)
    highest, log_total = _log_sum_exp(row_ptr, V, BLOCK)
    counts = (target != ignore_index) & (target >= 0) & (target < V)
    chosen = tl.load(row_ptr + target, mask=counts, other=0.0).to(tl.float32)
    tl.store(lse_ptr + row, highest + log_total)
    tl.store(loss_ptr + row, tl.where(counts, highest - chosen + log_total, 0.0))


@triton.jit
def _gradient_kernel(
    logits_ptr, target_ptr, lse_ptr, scale_ptr, grad_ptr, loss_ptr, stride, grad_stride, V, ignore_index,
    BLOCK: tl.constexpr, COMPUTES_LOSS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    target = tl.load(target_ptr + row)
    counts = (target != ignore_index) & (target >= 0) & (target < V)
    if COMPUTES_LOSS:
        highest, log_total = _log_sum_exp(row_ptr, V, BLOCK)
        lse = highest + log_total
        chosen = tl.load(row_ptr + target, mask=counts, other=0.0).to(tl.float32)
        tl.store(loss_ptr + row, tl.where(counts, highest - chosen + log_total, 0.0))
    else:
        lse = tl.load(lse_ptr + row)
    scale = tl.where(counts, tl.load(scale_ptr), 0.0)
    v = tl.arange(0, BLOCK)
    for start in range(0, V, BLOCK):
        place = start + v
        x = tl.load(row_ptr + place, mask=place < V, other=0.0).to(tl.float32)
        probability = tl.exp2((x - lse) * 1.4426950408889634)
        grad = scale * (probability - tl.where(place == target, 1.0, 0.0))
        grad = tl.where(counts, grad, 0.0)
        tl.store(grad_ptr + row * grad_stride + place, grad.to(grad_ptr.dtype.element_ty), mask=place < V)


def _block(size: int) -> tuple[int, int]:
    block = min(LARGEST_BLOCK, triton.next_power_of_2(size))
    return block, max(1, min(16, block // 512))


def row_losses(logits: torch.Tensor, target: torch.Tensor, ignore_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss of each row, 0 where it does not count; log-sum-exp of each row), float32 [N]."""
    if not runs_triton(logits):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(wide, target, ignore_index=ignore_index, reduction="none")
        return losses, wide.logsumexp(-1)
    rows, size = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    lse = torch.empty_like(losses)
    block, warps = _block(size)
    if rows:
        launch_kernel(
            _loss_kernel,
            (rows,),
            logits,
            target,
            losses,
            lse,
            logits.stride(0),
            size,
            ignore_index,
            BLOCK=block,
            num_warps=warps,
        )
    return losses, lse


def row_gradients(
    logits: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    scale: torch.Tensor,
    ignore_index: int,
    out: torch.Tensor,
) -> torch.Tensor:
    """Writes the gradient of the logits to `out`, which may be the logits; `scale`: float32, on the device."""
    if not runs_triton(logits):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        counts = (target != ignore_index)[:, None]
        chosen = F.one_hot(torch.where(counts[:, 0], target, 0), logits.shape[1])
        return out.copy_(torch.where(counts, scale * ((wide - lse[:, None]).exp() - chosen), 0.0))
    block, warps = _block(logits.shape[1])
    if logits.shape[0]:
        launch_kernel(_gradient_kernel, (logits.shape[0],),
            logits, target, lse, scale, out, lse, logits.stride(0), out.stride(0), logits.shape[1], ignore_index,
            BLOCK=block, COMPUTES_LOSS=False, num_warps=warps,
        )  # fmt: skip
    return out


def losses_and_gradients_in_place(
    logits: torch.Tensor, target: torch.Tensor, scale: torch.Tensor, ignore_index: int
) -> torch.Tensor:
    """The loss of each row; the logits become their gradient."""
    if not runs_triton(logits):
        losses, lse = row_losses(logits, target, ignore_index)
        row_gradients(logits, target, lse, scale, ignore_index, logits)
        return losses
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    block, warps = _block(logits.shape[1])
    if logits.shape[0]:
        launch_kernel(_gradient_kernel, (logits.shape[0],),
            logits, target, losses, scale, logits, losses, logits.stride(0), logits.stride(0), logits.shape[1],
            ignore_index, BLOCK=block, COMPUTES_LOSS=True, num_warps=warps,
        )  # fmt: skip
    return losses


def divisor(target: torch.Tensor, ignore_index: int, reduction: str) -> torch.Tensor:
    """What the sum of the rows' losses is divided by: float32 [], on the device."""
    if reduction == "sum":
        return torch.ones((), dtype=torch.float32, device=target.device)
    return (target != ignore_index).sum().to(torch.float32)


@torch.library.custom_op("thunder::cross_entropy", mutates_args=())
def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, log-sum-exp of each row); `reduction` is "mean" or "sum"."""
    target = target.reshape(-1).contiguous()
    losses, lse = row_losses(as_rows(logits), target, ignore_index)
    return losses.sum() / divisor(target, ignore_index, reduction), lse


@torch.library.custom_op("thunder::cross_entropy_backward", mutates_args=())
def cross_entropy_backward(
    grad: torch.Tensor, logits: torch.Tensor, target: torch.Tensor, lse: torch.Tensor, ignore_index: int, reduction: str
) -> torch.Tensor:
    """The gradient of the logits, rows behind one another."""
    target = target.reshape(-1).contiguous()
    scale = grad / divisor(target, ignore_index, reduction)
    rows = as_rows(logits)
    out = torch.empty(rows.shape, dtype=logits.dtype, device=logits.device)
    return row_gradients(rows, target, lse, scale, ignore_index, out).view(logits.shape)


def _statistics_type(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


@cross_entropy.register_fake
def _(logits, target, ignore_index=-100, reduction="mean"):
    dtype = _statistics_type(logits)
    return logits.new_empty((), dtype=dtype), logits.new_empty(target.numel(), dtype=dtype)


@cross_entropy_backward.register_fake
def _(grad, logits, target, lse, ignore_index, reduction):
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target, ctx.ignore_index, ctx.reduction = inputs
    ctx.save_for_backward(logits, target, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Any, ...]:
    found = torch.ops.thunder.cross_entropy_backward(grad, *ctx.saved_tensors, ctx.ignore_index, ctx.reduction)
    return found, None, None, None


cross_entropy.register_autograd(_differentiate, setup_context=_save)


def cross_entropy_reference(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cross_entropy` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = logits.to(_statistics_type(logits)).reshape(-1, logits.shape[-1])
    loss = F.cross_entropy(wide, target.reshape(-1), ignore_index=ignore_index, reduction=reduction)
    return loss, wide.logsumexp(-1).detach()


def cross_entropy_loss(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int, reduction: str, dtype: torch.dtype
) -> torch.Tensor:
    """The loss alone, in the type in which the program computes it."""
    return torch.ops.thunder.cross_entropy(logits, target, ignore_index, reduction)[0].to(dtype)


def is_supported(logits: Any, target: Any, ignore_index: Any, reduction: Any) -> bool:
    """Whether the kernels take these."""
    return (
        isinstance(logits, torch.Tensor)
        and isinstance(target, torch.Tensor)
        and logits.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and target.dtype is torch.int64
        and logits.dim() >= 2
        and logits.shape[-1] > 0
        and target.numel() == logits.numel() // logits.shape[-1]
        and type(ignore_index) is int
        and reduction in ("mean", "sum")
    )


def flattens(logits: torch.Tensor, rows: Any, size: Any, last: Any) -> bool:
    """Whether `view(rows, size)`, or `flatten(0, last)`, makes a matrix of the last dimension of the logits."""
    if last is not None:
        return logits.dim() > 2 and last in (-2, logits.dim() - 2)
    if size is not None:
        return size in (logits.shape[-1], -1) and rows in (-1, logits.numel() // logits.shape[-1]) and rows != size
    return logits.dim() == 2


def spelling(flattening: str | None, converted: str | None) -> Callable[..., Any]:
    """A way in which programs write the loss.

    Args:
        flattening: what makes a matrix of the logits: "view", "reshape", "flatten", or nothing.
        converted: whether the logits are converted "before" that, "after" it, or not.
    """

    def pattern(logits, target, ignore_index, reduction, wide, rows, size, last):
        if converted == "before":
            logits = logits.to(wide)
        if flattening == "flatten":
            logits = logits.flatten(0, last)
        elif flattening is not None:
            logits = getattr(logits, flattening)(rows, size)
        if converted == "after":
            logits = logits.to(wide)
        return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction=reduction)

    return pattern


FLATTENINGS = ("view", "reshape", "flatten")
SPELLINGS = (
    spelling(None, None),
    spelling(None, "before"),
    *(spelling(flattening, converted) for flattening in FLATTENINGS for converted in (None, "before", "after")),
)


def _check(
    logits: Any, target: Any, ignore_index: Any, reduction: Any, wide: Any, rows: Any, size: Any, last: Any
) -> bool:
    if not is_supported(logits, target, ignore_index, reduction) or wide not in (None, torch.float32):
        return False
    return flattens(logits, rows, size, last)


def _arguments(logits: Any, target: Any, ignore_index: int, reduction: str, wide: Any = None, **_: Any) -> Any:
    return logits, target, ignore_index, reduction, wide or logits.value.dtype


register_library_kernel(
    "cross_entropy",
    SPELLINGS,
    cross_entropy_loss,
    check=_check,
    arguments=_arguments,
    is_fusible=True,
)
