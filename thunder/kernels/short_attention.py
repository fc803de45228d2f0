"""Attention of 2 to 16 tokens to each other, the rotation of queries and keys by their positions in it.

    out[b, h] = softmax(scale * rope(q[b, h]) @ rope(k[b, g]).T) @ v[b, g]        g = h // (H // G)

    q: [B, H, L, D]    k, v: [B, G, L, D]    cos, sin: [B or 1, 1, L, D], or absent: nothing is rotated
    out: [B, H, L, D], in memory [B, L, H, D]

A program does one head: everything fits in one tile.  PyTorch's kernels take longer to start than this to run, and the
rotation is two more.  Arithmetic is in float32; the rotated tensors and the weights are rounded to the type of q.

There is no gradient.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.launch import begins_early, is_interpreted, runs_triton
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.rope import rope_reference

MOST_TOKENS = 16
HEADS = (32, 64, 128, 256)


@triton.jit
def _rotated_halves(rows, tables_cos, tables_sin, d, mask, HALF: tl.constexpr, ROTATES: tl.constexpr):
    """Both halves of the rows of a head."""
    first = tl.load(rows + d, mask=mask, other=0.0)
    second = tl.load(rows + HALF + d, mask=mask, other=0.0)
    if ROTATES:
        wide, other = first.to(tl.float32), second.to(tl.float32)
        cos, sin = tl.load(tables_cos + d, mask=mask, other=0.0), tl.load(tables_sin + d, mask=mask, other=0.0)
        turned = wide * cos.to(tl.float32) - other * sin.to(tl.float32)
        cos = tl.load(tables_cos + HALF + d, mask=mask, other=0.0)
        sin = tl.load(tables_sin + HALF + d, mask=mask, other=0.0)
        second = (other * cos.to(tl.float32) + wide * sin.to(tl.float32)).to(second.dtype)
        first = turned.to(first.dtype)
    return first, second


@triton.jit
def _short_attention_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, out_ptr,
    L, H, scale_log2, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, cos_b, cos_l, sin_b, sin_l,
    GROUP: tl.constexpr, D: tl.constexpr, ROTATES: tl.constexpr, CAUSAL: tl.constexpr, WIDE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = D // 2
    head, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tl.arange(0, 16)
    column = tl.arange(0, 16)
    d = tl.arange(0, HALF)[None, :]
    mask = (row < L)[:, None]
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()  # the next kernel asks for its weights while this one waits
        tl.extra.cuda.gdc_wait()
    cos, sin = cos_ptr + b * cos_b + row[:, None] * cos_l, sin_ptr + b * sin_b + row[:, None] * sin_l
    q = q_ptr + b * q_b + head * q_h + row[:, None] * q_l
    k = k_ptr + b * k_b + (head // GROUP) * k_h + row[:, None] * k_l
    v = v_ptr + b * v_b + (head // GROUP) * v_h + row[:, None] * v_l
    values = tl.load(v + tl.arange(0, D)[None, :], mask=mask, other=0.0)
    q_first, q_second = _rotated_halves(q, cos, sin, d, mask, HALF, ROTATES)
    k_first, k_second = _rotated_halves(k, cos, sin, d, mask, HALF, ROTATES)
    if WIDE:
        q_first, q_second = q_first.to(tl.float32), q_second.to(tl.float32)
        k_first, k_second = k_first.to(tl.float32), k_second.to(tl.float32)
        values = values.to(tl.float32)
    scores = tl.dot(q_first, tl.trans(k_first), input_precision="ieee")
    scores = tl.dot(q_second, tl.trans(k_second), scores, input_precision="ieee") * scale_log2
    visible = (column < L)[None, :]
    if CAUSAL:
        visible = visible & (column[None, :] <= row[:, None])
    scores = tl.where(visible, scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(weights, axis=1)
    result = tl.dot(weights.to(values.dtype), values, input_precision="ieee") / total[:, None]
    out = out_ptr + ((b * L + row[:, None]) * H + head) * D + tl.arange(0, D)[None, :]
    tl.store(out, result.to(out_ptr.dtype.element_ty), mask=mask)


def launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    is_causal: bool,
    scale: float,
    *,
    early: bool = True,
) -> torch.Tensor:
    """Runs the kernel; `early`: begin while the one before is running, and let the next begin (from Hopper on)."""
    batch, heads, length, size = q.shape
    early = early and begins_early(q.device)
    out = _empty_out(q)
    launch_kernel(_short_attention_kernel, (heads, batch),
        q, k, v, cos if cos is not None else q, sin if sin is not None else q, out,
        length, heads, scale * 1.4426950408889634, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        *_table_strides(cos), *_table_strides(sin),
        GROUP=heads // k.shape[1], D=size, ROTATES=cos is not None, CAUSAL=is_causal, WIDE=is_interpreted(),
        EARLY=early, num_warps=4, launch_pdl=early,
    )  # fmt: skip
    return out


def _table_strides(table: torch.Tensor | None) -> tuple[int, int]:
    if table is None:
        return 0, 0
    return (table.stride(0) if table.shape[0] > 1 else 0), table.stride(2)


def _empty_out(q: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = q.shape
    return q.new_empty((batch, length, heads, size)).transpose(1, 2)


@torch.library.custom_op("thunder::short_attention", mutates_args=())
def short_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    sin: Optional[torch.Tensor] = None,  # noqa: UP045
    is_causal: bool = True,
    scale: Optional[float] = None,  # noqa: UP045
) -> torch.Tensor:
    """Attention of few tokens to each other; see the module's docstring."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if runs_triton(q):
        return launch(q, k, v, cos, sin, is_causal, factor)
    return _empty_out(q).copy_(short_attention_reference(q, k, v, cos, sin, is_causal, factor))


@short_attention.register_fake
def _(q, k, v, cos=None, sin=None, is_causal=True, scale=None):
    return _empty_out(q)


SHORT_ATTENTION = torch.ops.thunder.short_attention.default


def short_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    is_causal: bool = True,
    scale: float | None = None,
) -> torch.Tensor:
    """`short_attention` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (tensor.to(wide) for tensor in (q, k, v))
    if cos is not None and sin is not None:
        q, k = rope_reference(q, cos, sin), rope_reference(k, cos, sin)
    return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale, enable_gqa=True)


def is_supported(q: Any, k: Any, v: Any) -> bool:
    """Whether the kernel takes these: few tokens, heads of a usual size, 16-bit (on the CPU any) types."""
    if not all(isinstance(tensor, torch.Tensor) and tensor.dim() == 4 for tensor in (q, k, v)):
        return False
    types = (torch.bfloat16, torch.float16) if q.is_cuda else (torch.bfloat16, torch.float16, torch.float32)
    batch, heads, length, size = q.shape
    return (
        2 <= length <= MOST_TOKENS
        and size in HEADS
        and q.dtype in types
        and k.shape == v.shape
        and k.shape[0] == batch
        and heads % max(1, k.shape[1]) == 0
        and tuple(k.shape[2:]) == (length, size)
        and all(tensor.dtype is q.dtype and tensor.stride(3) == 1 for tensor in (k, v))
        and q.stride(3) == 1
        and not any(tensor.requires_grad for tensor in (q, k, v))
    )
