"""Attention of one new token over a key-value cache, the cache split over programs.

    scores[b, h, j] = scale * sum_d query[b, h, 0, d] * keys[b, h // G, j, d]     for the j that are visible
    out[b, h, 0, :] = sum_j softmax(scores)[b, h, j] * values[b, h // G, j, :]

    query: [B, H, 1, D]    keys, values: [B, H / G, L, D]    out: [B, H, 1, D]
    position: int64 [1], on the device: the j <= position[0] are visible; without it, all L
    mask: bool [B or 1, H or 1, 1, L]: of these, the j where it is true; without it, all

A head of keys serves G heads of the query (grouped-query attention): a program reads a block of keys and values once
for all of them.  The visible part of the cache, whose length is known on the device only, is shared out evenly among
SPLITS programs; each keeps a running maximum m, the sum l of exp(score - m), and the weighted sum of values.  A second
kernel joins them:  out = sum_s exp(m_s - m) acc_s / sum_s exp(m_s - m) l_s.

This is for inference: it has no gradient.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import triton
import triton.language as tl

from thunder.kernels.launch import begins_early, empty_contiguous, is_interpreted, multiprocessor_count, runs_triton
from thunder.kernels.machine_code import launch_kernel

LARGEST_HEAD = 256
BLOCK_L = 64
LONGEST_UNSPLIT = 256  # shorter caches are read by one program a head: a second launch would cost more


@triton.jit
def _decode_kernel(
    query_ptr, keys_ptr, values_ptr, position_ptr, mask_ptr, out_ptr, partial_ptr, statistics_ptr,
    L, H, KV_HEADS, scale_log2,
    query_b, query_h, keys_b, keys_h, keys_l, values_b, values_h, values_l, mask_b, mask_h, mask_l,
    GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_L: tl.constexpr,
    SPLITS: tl.constexpr, HAS_POSITION: tl.constexpr, HAS_MASK: tl.constexpr, WIDE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    b = (tl.program_id(0) // KV_HEADS).to(tl.int64)
    kv_head = tl.program_id(0) % KV_HEADS
    split = tl.program_id(1)
    row = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + row
    row_mask = (row < GROUP)[:, None] & (d < D)[None, :]
    query = tl.load(query_ptr + b * query_b + head[:, None] * query_h + d[None, :], mask=row_mask, other=0.0)

    if WIDE:
        query = query.to(tl.float32)

    length = L
    if HAS_POSITION:
        length = tl.minimum(tl.load(position_ptr).to(tl.int32) + 1, L)
    share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_L) * BLOCK_L
    first = split * share
    last = tl.minimum(first + share, length)

    maximum = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, BLOCK_D], tl.float32)
    keys_head = keys_ptr + b * keys_b + kv_head * keys_h
    values_head = values_ptr + b * values_b + kv_head * values_h
    for start in range(first, last, BLOCK_L):
        j = start + tl.arange(0, BLOCK_L)
        inside = j < last
        block_mask = inside[:, None] & (d < D)[None, :]
        keys = tl.load(keys_head + j.to(tl.int64)[:, None] * keys_l + d[None, :], mask=block_mask, other=0.0)
        values = tl.load(values_head + j.to(tl.int64)[:, None] * values_l + d[None, :], mask=block_mask, other=0.0)
        if WIDE:
            keys = keys.to(tl.float32)
            values = values.to(tl.float32)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
        visible = inside[None, :] & (row < GROUP)[:, None]
        if HAS_MASK:
            shown = tl.load(mask_ptr + b * mask_b + head[:, None] * mask_h + j[None, :] * mask_l, mask=visible, other=0)
            visible = visible & (shown != 0)
        scores = tl.where(visible, scores, float("-inf"))
        highest = tl.maximum(maximum, tl.max(scores, axis=1))
        # Rows that see nothing yet have no maximum: any number will do for them.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        decay = tl.exp2(maximum - base)
        total = total * decay + tl.sum(weights, axis=1)
        weighted = weighted * decay[:, None]
        weighted += tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        maximum = highest

    if SPLITS == 1:
        result = weighted / total[:, None]
        out = out_ptr + (b * H + head)[:, None] * D + d[None, :]
        tl.store(out, result.to(out_ptr.dtype.element_ty), mask=row_mask)
    else:
        place = (b * H + head) * SPLITS + split
        tl.store(partial_ptr + place[:, None] * D + d[None, :], weighted, mask=row_mask)
        tl.store(statistics_ptr + place * 2, maximum, mask=row < GROUP)
        tl.store(statistics_ptr + place * 2 + 1, total, mask=row < GROUP)


@triton.jit
def _join_kernel(
    partial_ptr, statistics_ptr, out_ptr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    place = tl.program_id(0).to(tl.int64) * SPLITS
    split = tl.arange(0, BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    maximum = tl.load(statistics_ptr + (place + split) * 2, mask=split < SPLITS, other=float("-inf"))
    total = tl.load(statistics_ptr + (place + split) * 2 + 1, mask=split < SPLITS, other=0.0)
    factor = tl.exp2(maximum - tl.max(maximum, axis=0))
    factor = tl.where(maximum == float("-inf"), 0.0, factor)
    mask = (split < SPLITS)[:, None] & (d < D)[None, :]
    partial = tl.load(partial_ptr + (place + split)[:, None] * D + d[None, :], mask=mask, other=0.0)
    result = tl.sum(partial * factor[:, None], axis=0) / tl.sum(total * factor, axis=0)
    tl.store(out_ptr + tl.program_id(0).to(tl.int64) * D + d, result.to(out_ptr.dtype.element_ty), mask=d < D)


def choose_splits(batch: int, kv_heads: int, length: int, device: torch.device) -> int:
    """How many programs share a head: enough to give every multiprocessor two, each at least a block long."""
    if length <= LONGEST_UNSPLIT:
        return 1
    wanted = triton.cdiv(2 * multiprocessor_count(device), batch * kv_heads)
    return max(1, min(wanted, length // BLOCK_L, 64))


def launch(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    splits: int | None = None,
    *,
    early: bool = True,
    block: int = BLOCK_L,
    warps: int = 4,
) -> torch.Tensor:
    """Runs the kernels.

    Args:
        query, keys, values, position, mask, scale: see the module's docstring.
        splits: programs that share a head; `choose_splits` knows without it.
        early: begin while the kernel before is running, and let the next begin (from Hopper on).
        block, warps: of a program.
    """
    batch, heads, _, size = query.shape
    kv_heads, length = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    splits = splits or choose_splits(batch, kv_heads, length, query.device)
    out = empty_contiguous(query, query.shape)
    partial = statistics = out
    if splits > 1:
        partial = torch.empty(batch * heads * splits, size, dtype=torch.float32, device=query.device)
        statistics = torch.empty(batch * heads * splits, 2, dtype=torch.float32, device=query.device)
    # A mask of one batch entry or head serves all of them.
    mask_strides = [stride if s > 1 else 0 for s, stride in zip(mask.shape, mask.stride())] if mask is not None else []
    mask_b, mask_h, _, mask_l = mask_strides or (0, 0, 0, 0)
    block_d = triton.next_power_of_2(size)
    early = early and begins_early(query.device)
    options: dict[str, Any] = {"EARLY": early, "num_warps": warps, "launch_pdl": early}
    launch_kernel(_decode_kernel, (batch * kv_heads, splits),
        query, keys, values, position if position is not None else query,
        mask.view(torch.int8) if mask is not None else query, out, partial, statistics,
        length, heads, kv_heads, scale * 1.4426950408889634,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2), mask_b, mask_h, mask_l,
        GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), D=size, BLOCK_D=block_d, BLOCK_L=block,
        SPLITS=splits, HAS_POSITION=position is not None, HAS_MASK=mask is not None,
        WIDE=is_interpreted(), **options,
    )  # fmt: skip
    if splits > 1:
        launch_kernel(_join_kernel, (batch * heads,),
            partial, statistics, out, D=size, BLOCK_D=block_d, SPLITS=splits,
            BLOCK_S=triton.next_power_of_2(splits), **options,
        )  # fmt: skip
    return out


@torch.library.custom_op("thunder::decode_attention", mutates_args=())
def decode_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    mask: Optional[torch.Tensor] = None,  # noqa: UP045
    scale: Optional[float] = None,  # noqa: UP045
) -> torch.Tensor:
    """Attention of one new token over a cache; see the module's docstring."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if runs_triton(query):
        return launch(query, keys, values, position, mask, scale)
    return decode_attention_reference(query, keys, values, position, mask, scale)


@decode_attention.register_fake
def _(query, keys, values, position=None, mask=None, scale=None):
    return query.new_empty(query.shape)


DECODE_ATTENTION = torch.ops.thunder.decode_attention.default


def decode_attention_reference(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """`decode_attention` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(query.dtype, torch.float32)
    group = query.shape[1] // keys.shape[1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.to(wide) @ keys.to(wide).repeat_interleave(group, 1).transpose(-1, -2) * scale
    if position is not None:
        scores = scores.masked_fill(torch.arange(keys.shape[2], device=keys.device) > position, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ values.to(wide).repeat_interleave(group, 1)).to(query.dtype)


def is_supported(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether the kernel takes these: one token, 16-bit types (on the CPU any), elements of a head side by side."""
    types = (torch.bfloat16, torch.float16) if query.is_cuda else (torch.bfloat16, torch.float16, torch.float32)
    return (
        query.dim() == 4
        and query.shape[2] == 1
        and query.shape[0] == keys.shape[0]
        and keys.shape == values.shape
        and query.shape[1] % keys.shape[1] == 0
        and query.shape[3] == keys.shape[3] <= LARGEST_HEAD
        and query.dtype in types
        and query.dtype is keys.dtype is values.dtype
        and not (query.requires_grad or keys.requires_grad or values.requires_grad)
        and query.stride(3) == keys.stride(3) == values.stride(3) == 1
    )
