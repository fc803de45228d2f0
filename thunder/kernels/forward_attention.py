"""Attention without gradients, with a mask that is the same for all queries, or the causal one, or none.

    scores[b, h, i, j] = scale * sum_d query[b, h, i, d] * keys[b, h // G, j, d] + mask[b, h, j]
    out[b, h, i, :]    = sum_j softmax(scores)[b, h, i, j] * values[b, h // G, j, :]

    query, out: [B, H, S, D]    keys, values: [B, H / G, L, D]
    mask: [B or 1, H or 1, S or 1, L], floating point, added; its rows along S are taken to be equal (padding)
    causal: only the j <= i are visible

PyTorch's fastest kernel on Hopper (cuDNN's) takes 1.6 times as long with such a mask as without, and two launches of
8 us in all for a few tokens.  Here a program holds a block of queries, walks over the keys and reads the mask's row
along with them.  Running maximum, sum and weighted sum of values are in float32; a query that sees no key gets zeros.

This is for inference: it has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import begins_early, is_interpreted, runs_triton
from thunder.kernels.machine_code import launch_kernel

LARGEST_HEAD = 128
_LOG2_E = 1.4426950408889634


@triton.jit
def _attention_kernel(
    query_ptr, keys_ptr, values_ptr, mask_ptr, out_ptr, H, S, L, scale_log2,
    query_b, query_h, query_s, keys_b, keys_h, keys_l, values_b, values_h, values_l,
    mask_b, mask_h, mask_l, out_b, out_h, out_s,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_L: tl.constexpr,
    STAGES: tl.constexpr, CAUSAL: tl.constexpr, HAS_MASK: tl.constexpr, EVEN_L: tl.constexpr, EVEN_D: tl.constexpr,
    EARLY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first_query = tl.program_id(0) * BLOCK_S
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    i = first_query + tl.arange(0, BLOCK_S)
    block = tl.arange(0, BLOCK_L)
    d = tl.arange(0, BLOCK_D)
    query_mask = (i < S)[:, None] & (d < D)[None, :]
    query_head = query_ptr + b * query_b + h * query_h
    query = tl.load(query_head + i[:, None] * query_s + d[None, :], mask=query_mask, other=0.0)
    keys_head = keys_ptr + b * keys_b + (h // GROUP) * keys_h + d[None, :]
    values_head = values_ptr + b * values_b + (h // GROUP) * values_h + d[None, :]
    mask_head = mask_ptr + b * mask_b + h * mask_h
    if WIDE:
        query = query.to(tl.float32)

    maximum = tl.full([BLOCK_S], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_S], tl.float32)
    weighted = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    end = L
    if CAUSAL:
        end = tl.minimum(first_query + BLOCK_S, L)
    for start in tl.range(0, end, BLOCK_L, num_stages=STAGES):
        j = start + block
        if EVEN_L and EVEN_D:
            keys = tl.load(keys_head + j[:, None] * keys_l)
            values = tl.load(values_head + j[:, None] * values_l)
        else:
            inside = (j < L)[:, None] & (d < D)[None, :]
            keys = tl.load(keys_head + j[:, None] * keys_l, mask=inside, other=0.0)
            values = tl.load(values_head + j[:, None] * values_l, mask=inside, other=0.0)
        if WIDE:
            keys = keys.to(tl.float32)
            values = values.to(tl.float32)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
        if HAS_MASK:
            row = tl.load(mask_head + j * mask_l, mask=j < L, other=float("-inf")).to(tl.float32)
            scores += (row * 1.4426950408889634)[None, :]
        elif not EVEN_L:
            scores = tl.where((j < L)[None, :], scores, float("-inf"))
        if CAUSAL:
            scores = tl.where(j[None, :] <= i[:, None], scores, float("-inf"))
        highest = tl.maximum(maximum, tl.max(scores, axis=1))
        # Rows that see nothing yet have no maximum: any number will do for them.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        decay = tl.exp2(maximum - base)
        total = total * decay + tl.sum(weights, axis=1)
        weighted = weighted * decay[:, None]
        weighted = tl.dot(weights.to(values.dtype), values, weighted, input_precision="ieee")
        maximum = highest

    result = weighted / tl.where(total == 0.0, 1.0, total)[:, None]
    out = out_ptr + b * out_b + h * out_h + i.to(tl.int64)[:, None] * out_s + d[None, :]
    tl.store(out, result.to(out_ptr.dtype.element_ty), mask=query_mask)


@dataclass(frozen=True)
class AttentionPlan:
    """How a launch is divided into programs.

    Attributes:
        block_s, block_l: queries of a program, and keys that it reads at a time.
        warps, stages: of a program; as many blocks of keys less one are on their way while one is used.
        early: launch while the kernel before is still running, and wait for its end in the kernel.
    """

    block_s: int
    block_l: int
    warps: int
    stages: int
    early: bool = True


def choose_plan(queries: int, keys: int) -> AttentionPlan:
    """What was fastest on an H100 for 10 and for 512 tokens; blocks no longer than the sequences need."""
    if queries <= 16 and keys <= 32:
        return AttentionPlan(16, max(16, triton.next_power_of_2(keys)), 2, 1)
    block_s = min(64, max(16, triton.next_power_of_2(queries)))
    block_l = min(64, max(16, triton.next_power_of_2(keys)))
    return AttentionPlan(block_s, block_l, 4, 2)


def launch(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
    plan: AttentionPlan | None = None,
) -> torch.Tensor:
    """Runs the kernel; see the module's docstring. `plan` in place of the one that `choose_plan` makes."""
    batch, heads, length, size = query.shape
    plan = plan or choose_plan(length, keys.shape[2])
    out = torch.empty_like(query)
    # A mask of one batch entry or head serves all of them.
    mask_strides = [stride if n > 1 else 0 for n, stride in zip(mask.shape, mask.stride())] if mask is not None else []
    mask_b, mask_h, _, mask_l = mask_strides or (0, 0, 0, 0)
    block_d = max(16, triton.next_power_of_2(size))
    early = plan.early and begins_early(query.device)
    if out.numel():
        launch_kernel(_attention_kernel, (triton.cdiv(length, plan.block_s), batch * heads),
            query, keys, values, mask if mask is not None else query, out,
            heads, length, keys.shape[2], scale * _LOG2_E,
            *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3], mask_b, mask_h, mask_l, *out.stride()[:3],
            GROUP=heads // keys.shape[1], D=size, BLOCK_D=block_d, BLOCK_S=plan.block_s, BLOCK_L=plan.block_l,
            STAGES=plan.stages, CAUSAL=causal, HAS_MASK=mask is not None, EVEN_L=keys.shape[2] % plan.block_l == 0,
            EVEN_D=size == block_d, EARLY=early, WIDE=is_interpreted(), num_warps=plan.warps,
            launch_pdl=early,
        )  # fmt: skip
    return out


@torch.library.custom_op("thunder::forward_attention", mutates_args=())
def forward_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    causal: bool = False,
    scale: Optional[float] = None,  # noqa: UP045
) -> torch.Tensor:
    """Attention without gradients; see the module's docstring."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if runs_triton(query):
        return launch(query, keys, values, mask, causal, scale)
    return forward_attention_reference(query, keys, values, mask, causal, scale)


@forward_attention.register_fake
def _(query, keys, values, mask=None, causal=False, scale=None):
    return torch.empty_like(query)


FORWARD_ATTENTION = torch.ops.thunder.forward_attention.default


def forward_attention_reference(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """`forward_attention` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(query.dtype, torch.float32)
    group = query.shape[1] // keys.shape[1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.to(wide) @ keys.to(wide).repeat_interleave(group, 1).transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask.to(wide)[:, :, :1]
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)  # rows that see nothing
    return torch.empty_like(query).copy_(weights @ values.to(wide).repeat_interleave(group, 1))


def is_supported(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether the kernel takes these: 16-bit types (on the CPU any), elements of a head side by side."""
    types = (torch.bfloat16, torch.float16) if query.is_cuda else (torch.bfloat16, torch.float16, torch.float32)
    if query.dim() != 4 or keys.dim() != 4 or keys.shape != values.shape or keys.shape[1] == 0 or keys.shape[2] == 0:
        return False
    batch, heads, queries, size = query.shape
    if mask is not None and (
        mask.dim() != 4
        or not mask.is_floating_point()
        or mask.shape[0] not in (1, batch)
        or mask.shape[1] not in (1, heads)
        or mask.shape[2] not in (1, queries)
        or mask.shape[3] != keys.shape[2]
        or (mask.shape[2] > 1 and mask.stride(2) != 0)
    ):
        return False
    return (
        query.dtype in types
        and query.dtype is keys.dtype is values.dtype
        and keys.shape[0] == batch
        and heads % keys.shape[1] == 0
        and size == keys.shape[3] <= LARGEST_HEAD
        and size % 8 == 0
        and query.stride(3) == keys.stride(3) == values.stride(3) == 1
    )
