"""Linear layers on 2 to 16 rows: matrix products as high as one tile, which read every weight once.

    out[m, n] = residual[m, n] + act(bias[n] + sum_k h[m, k] * weight[n, k])
    out[m, n] = act(sum_k h[m, k] * weight[n, k]) * sum_k h[m, k] * up[n, k]            when `up` is given

    h: x, or, when `norm` is given, x * norm / sqrt(mean(x^2) + eps) (RMSNorm)
    x: [M, K]    weight, up: [N, K]    bias: [N]    norm: [K]    residual, out: [M, N]

A program computes BLOCK_N columns for 16 rows, fewer are padded, and walks along K with as many blocks of the weight on
their way from memory as there are stages.  Products are added up in float32, in a fixed order.  What a norm divides by
is one number for a row, known at the end of the walk: x * norm is what is rounded to the type of x.  A walk may be
divided among programs (`SkinnyPlan.splits`), whose sums a second kernel adds up.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from thunder.kernels.activation import activate
from thunder.kernels.launch import begins_early, empty_contiguous, is_interpreted
from thunder.kernels.machine_code import launch_kernel

SMALLEST_MEASURED = 1 << 21  # elements of a weight
LARGEST_PLAN = 200 << 10  # bytes of shared memory


@triton.jit
def _skinny_kernel(
    x_ptr, weight_ptr, up_ptr, bias_ptr, residual_ptr, norm_ptr, out_ptr,
    rows, N, x_stride, weight_stride, up_stride, residual_stride, out_stride, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr,
    ACTIVATION: tl.constexpr, SHARE: tl.constexpr, EARLY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * 16 + tl.arange(0, 16)
    k_block = tl.arange(0, BLOCK_K)
    # The columns of the weight, as the right operand of a product.
    columns = weight_ptr + n.to(tl.int64)[None, :] * weight_stride
    up_columns = up_ptr + n.to(tl.int64)[None, :] * up_stride
    x_rows = x_ptr + m[:, None] * x_stride
    if HAS_NORM:
        norm = tl.load(norm_ptr + k_block, mask=k_block < K, other=0.0)
    squares = tl.zeros([16, BLOCK_K], tl.float32)
    total = tl.zeros([16, BLOCK_N], tl.float32)
    up_total = tl.zeros([16, BLOCK_N], tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    share = tl.program_id(2)
    for step in tl.range(0, SHARE, BLOCK_K, num_stages=STAGES):
        k = share * SHARE + step + k_block
        if EVEN_K:
            x = tl.load(x_rows + k[None, :], mask=(m < rows)[:, None], other=0.0)
        else:
            x = tl.load(x_rows + k[None, :], mask=(m < rows)[:, None] & (k < K)[None, :], other=0.0)
        if HAS_NORM:
            # The next block is on its way while this one is used.
            next_norm = tl.load(norm_ptr + k + BLOCK_K, mask=k + BLOCK_K < K, other=0.0)
            wide = x.to(tl.float32)
            squares += wide * wide
            x = (wide * norm.to(tl.float32)[None, :]).to(x.dtype)
            norm = next_norm
        if EVEN_N and EVEN_K:
            weight = tl.load(columns + k[:, None], eviction_policy="evict_first")
        else:
            mask = (n < N)[None, :] & (k < K)[:, None]
            weight = tl.load(columns + k[:, None], mask=mask, other=0.0, eviction_policy="evict_first")
        if WIDE:
            total += tl.dot(x.to(tl.float32), weight.to(tl.float32), input_precision="ieee")
        else:
            total = tl.dot(x, weight, total, input_precision="ieee")
        if GATED:
            if EVEN_N and EVEN_K:
                up = tl.load(up_columns + k[:, None], eviction_policy="evict_first")
            else:
                up = tl.load(up_columns + k[:, None], mask=mask, other=0.0, eviction_policy="evict_first")
            if WIDE:
                up_total += tl.dot(x.to(tl.float32), up.to(tl.float32), input_precision="ieee")
            else:
                up_total = tl.dot(x, up, up_total, input_precision="ieee")
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=1) / K + eps)[:, None]
        total *= scale
    if SHARE < K:  # sums of a part of the walk, without what comes after it
        out_ptr += share.to(tl.int64) * rows * out_stride
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    total = activate(total, ACTIVATION)
    if GATED:
        if HAS_NORM:
            up_total *= scale
        total *= up_total
    mask = (m < rows)[:, None] & (n < N)[None, :]
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + m[:, None] * residual_stride + n[None, :], mask=mask, other=0.0)
        total += residual.to(tl.float32)
    tl.store(out_ptr + m[:, None] * out_stride + n[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _finish_kernel(
    parts_ptr, bias_ptr, residual_ptr, out_ptr, rows, N, residual_stride, out_stride,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = tl.program_id(1)
    total = tl.zeros([BLOCK], tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + (split * rows + m) * N + n, mask=n < N, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    total = activate(total, ACTIVATION)
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + m * residual_stride + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + m * out_stride + n, total.to(out_ptr.dtype.element_ty), mask=n < N)


@dataclass(frozen=True)
class SkinnyPlan:
    """How a launch is divided into programs.

    Attributes:
        block_n, block_k, warps, stages: of a program; as many blocks less one are on their way while one is used.
        early: launch while the kernel before is still running, and wait for its end in the kernel.
        splits: programs among which a walk along K is divided; 1 where there is a norm, or gate and up.
    """

    block_n: int
    block_k: int
    warps: int
    stages: int
    early: bool = True
    splits: int = 1


@functools.cache
def has_room(device: torch.device) -> bool:
    """Whether a multiprocessor has as much shared memory as the plans for an H100 take."""
    if device.type != "cuda":
        return True
    properties: Any = torch.cuda.get_device_properties(device)
    return bool(getattr(properties, "shared_memory_per_block_optin", 0) >= LARGEST_PLAN)


def choose_plan(n: int, k: int, device: torch.device, *, gated: bool) -> SkinnyPlan:
    """What was fastest on an H100 for the weights of models of 1.5 and 8 billion parameters; rows matter little."""
    if not has_room(device):
        return SkinnyPlan(32, 128, 4, 3)
    if gated:
        return SkinnyPlan(64, 128, 4, 3) if k <= 2048 else SkinnyPlan(32, 256, 4, 3)
    if k >= 8192:
        return SkinnyPlan(32, 128, 4, 6, splits=5) if n <= 2048 else SkinnyPlan(32, 512, 4, 3)
    if n >= 65536:
        return SkinnyPlan(16, 256, 2, 4)
    return SkinnyPlan(32, 128, 4, 6) if n <= 4096 else SkinnyPlan(64, 128, 4, 4)


def is_fastest(n: int, k: int, device: torch.device) -> bool:
    """Whether a layer is as large as those for which the kernel was faster than cuBLAS on an H100, on 2 to 16 rows."""
    return n * k >= SMALLEST_MEASURED and has_room(device)


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    up: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
    out: torch.Tensor,
    plan: SkinnyPlan | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    """Runs the kernel on matrices; `plan` in place of the one that `choose_plan` makes."""
    n, k = weight.shape
    plan = plan or choose_plan(n, k, x.device, gated=up is not None)
    rows, splits = x.shape[0], plan.splits if up is None and norm is None else 1
    early = plan.early and begins_early(x.device)
    share = triton.cdiv(triton.cdiv(k, splits), plan.block_k) * plan.block_k
    splits = triton.cdiv(k, share)
    target = out if splits == 1 else empty_contiguous(x, (splits * rows, n), torch.float32)
    finishes = splits == 1
    launch_kernel(_skinny_kernel, (triton.cdiv(n, plan.block_n), triton.cdiv(rows, 16), splits),
        x, weight, up if up is not None else weight, bias if bias is not None else x,
        residual if residual is not None else x, norm if norm is not None else x, target,
        rows, n, x.stride(0), weight.stride(0), up.stride(0) if up is not None else 0,
        residual.stride(0) if residual is not None else 0, target.stride(0), eps,
        K=k, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, STAGES=plan.stages,
        EVEN_N=n % plan.block_n == 0, EVEN_K=splits * share == k,
        GATED=up is not None, HAS_BIAS=bias is not None and finishes, HAS_RESIDUAL=residual is not None and finishes,
        HAS_NORM=norm is not None, ACTIVATION=activation if finishes else "none", SHARE=share,
        EARLY=early, WIDE=is_interpreted(), num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    if not finishes:
        launch_kernel(_finish_kernel, (triton.cdiv(n, 128), rows),
            target, bias if bias is not None else x, residual if residual is not None else x, out,
            rows, n, residual.stride(0) if residual is not None else 0, out.stride(0),
            SPLITS=splits, BLOCK=128, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None,
            ACTIVATION=activation, EARLY=early, num_warps=2, launch_pdl=early,
        )  # fmt: skip
    return out
