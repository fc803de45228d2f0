"""Embedding, with a gradient that adds up in float32 and always in the same order.

    out[..., :]    = weight[ids[...], :]
    grad_weight[v] = sum over the places n with ids[n] = v, v != padding_idx, of grad[n]

    ids: int64 [...]    weight, grad_weight: [V, N]    out, grad: [..., N]

The places are sorted by id.  The program of the first place of an id walks over all of them, adding up a block of the
row in registers, and writes it; rows of ids that do not occur are zeroed beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.launch import as_rows, runs_triton
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.registry import register_library_kernel

LARGEST_BLOCK = 2048


@triton.jit
def _gradient_kernel(grad_ptr, ids_ptr, places_ptr, out_ptr, count, N, grad_stride, padding_idx, BLOCK: tl.constexpr):
    first = tl.program_id(0)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(ids_ptr + first)
    before = tl.load(ids_ptr + first - 1, mask=first > 0, other=-1)
    if (token != before) & (token != padding_idx):
        total = tl.zeros([BLOCK], tl.float32)
        position = first
        current = token
        while current == token:
            place = tl.load(places_ptr + position)
            total += tl.load(grad_ptr + place * grad_stride + n, mask=n < N, other=0.0).to(tl.float32)
            position += 1
            current = tl.load(ids_ptr + position, mask=position < count, other=-1)
        tl.store(out_ptr + token * N + n, total.to(out_ptr.dtype.element_ty), mask=n < N)


def _launch_backward(grad: torch.Tensor, ids: torch.Tensor, rows: int, padding_idx: int) -> torch.Tensor:
    grads = as_rows(grad)
    out = torch.zeros(rows, grads.shape[1], dtype=grad.dtype, device=grad.device)
    ordered, places = ids.reshape(-1).sort(stable=True)
    block = min(LARGEST_BLOCK, triton.next_power_of_2(grads.shape[1]))
    if ordered.numel():
        launch_kernel(_gradient_kernel, (ordered.numel(), triton.cdiv(grads.shape[1], block)),
            grads, ordered, places, out, ordered.numel(), grads.shape[1], grads.stride(0), padding_idx,
            BLOCK=block, num_warps=max(1, min(8, block // 256)),
        )  # fmt: skip
    return out


@torch.library.custom_op("thunder::embedding", mutates_args=())
def embedding(ids: torch.Tensor, weight: torch.Tensor, padding_idx: int = -1) -> torch.Tensor:
    """Rows of the weight; `padding_idx` has no gradient."""
    return F.embedding(ids, weight)


@torch.library.custom_op("thunder::embedding_backward", mutates_args=())
def embedding_backward(grad: torch.Tensor, ids: torch.Tensor, rows: int, padding_idx: int) -> torch.Tensor:
    """The gradient of a weight of so many rows."""
    if runs_triton(grad):
        return _launch_backward(grad, ids, rows, padding_idx)
    return embedding_backward_reference(grad, ids, rows, padding_idx)


@embedding.register_fake
def _(ids, weight, padding_idx=-1):
    return weight.new_empty((*ids.shape, weight.shape[1]))


@embedding_backward.register_fake
def _(grad, ids, rows, padding_idx):
    return grad.new_empty((rows, grad.shape[-1]))


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, int], output: torch.Tensor) -> None:
    ids, weight, ctx.padding_idx = inputs
    ctx.rows = weight.shape[0]
    ctx.save_for_backward(ids)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (ids,) = ctx.saved_tensors
    return None, torch.ops.thunder.embedding_backward(grad, ids, ctx.rows, ctx.padding_idx), None


embedding.register_autograd(_differentiate, setup_context=_save)


def embedding_backward_reference(grad: torch.Tensor, ids: torch.Tensor, rows: int, padding_idx: int) -> torch.Tensor:
    """`embedding_backward` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    flat = grad.reshape(-1, grad.shape[-1]).to(wide)
    out = torch.zeros(rows, grad.shape[-1], dtype=wide, device=grad.device)
    out.index_add_(0, ids.reshape(-1), flat)
    if 0 <= padding_idx < rows:
        out[padding_idx] = 0
    return out.to(grad.dtype)


def _check(ids: Any, weight: Any, padding_idx: Any = None) -> bool:
    return (
        isinstance(ids, torch.Tensor)
        and isinstance(weight, torch.Tensor)
        and ids.dtype is torch.int64
        and weight.requires_grad
        and torch.is_grad_enabled()
    )


def _plain(ids, weight):
    return F.embedding(ids, weight)


def _padded(ids, weight, padding_idx):
    return F.embedding(ids, weight, padding_idx=padding_idx)


register_library_kernel(
    "embedding",
    [_plain, _padded],
    torch.ops.thunder.embedding.default,
    check=_check,
    arguments=lambda ids, weight, padding_idx=None: (ids, weight, -1 if padding_idx is None else padding_idx),
)
