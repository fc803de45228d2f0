"""Linear layers on few rows, as in decoding: every weight is read once, at the speed of memory.

    gemv        out[m, n] = residual[m, n] + act(bias[n] + sum_k h[m, k] * weight[n, k])
    gemv_gated  out[m, n] = act(sum_k h[m, k] * gate[n, k]) * sum_k h[m, k] * up[n, k]

with h = x, or, when `norm_weight` is given, h = x * norm_weight / sqrt(mean(x^2) + eps) (RMSNorm).

    x: [..., K] with 1 to 16 rows    weight, gate, up: [N, K]    bias: [N]    residual, out: [..., N]

Products are added up in float32.  For one row there are two kernels.  In the walking one, a program computes BLOCK_N
outputs and walks along K in steps of BLOCK_K, so that a warp reads whole cache lines of a row of the weight; the norm's
factor is one number, known at the end of the walk.  In the resident one, for rows of at most `LONGEST_RESIDENT`
elements, a program holds the normalised x in registers, for one block of rows of the weight or for many.  For more rows
there is `skinny.py`.

`constant_weights=True` is the caller's word that no kernel of a program that thunder captures writes the weights:
they are then read while the kernel before is still running.

These are for inference: they have no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels import skinny
from thunder.kernels.activation import ACTIVATIONS, activate
from thunder.kernels.capture import is_own_capture
from thunder.kernels.launch import (
    as_rows,
    begins_early,
    empty_contiguous,
    multiprocessor_count,
    rows_of,
    runs_triton,
)
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.plain_forms import normalised
from thunder.kernels.registry import kernel_device_type, register_library_kernel

MOST_ROWS = 16
LONGEST_RESIDENT = 4096
WHOLE = 1 << 16  # programs a multiprocessor: one for each block of rows


@triton.jit
def _load_block(weight_rows, n, k, N, K: tl.constexpr, EVEN: tl.constexpr):
    """A block of a weight, 0 where there is none."""
    if EVEN:
        return tl.load(weight_rows + k[None, :], eviction_policy="evict_first")
    mask = (n < N)[:, None] & (k < K)[None, :]
    return tl.load(weight_rows + k[None, :], mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _add_block(
    weight, up, total, up_total, squares, x_ptr, norm_ptr, k, K: tl.constexpr, GATED: tl.constexpr,
    HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Adds the products of a block of the weights with x."""
    x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares += x * x
        x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    total += x[None, :] * weight.to(tl.float32)
    if GATED:
        up_total += x[None, :] * up.to(tl.float32)
    return total, up_total, squares


@triton.jit
def _walking_kernel(
    x_ptr, weight_ptr, up_ptr, bias_ptr, residual_ptr, norm_ptr, out_ptr, N, weight_stride, up_stride, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr, ACTIVATION: tl.constexpr,
    EARLY: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k_block = tl.arange(0, BLOCK_K)
    weight_rows = weight_ptr + n.to(tl.int64)[:, None] * weight_stride
    up_rows = up_ptr + n.to(tl.int64)[:, None] * up_stride
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up_total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    if AHEAD:
        # Nothing that runs before writes the weights: the first are on their way while it ends.
        weight = _load_block(weight_rows, n, k_block, N, K, EVEN)
        up = weight
        if GATED:
            up = _load_block(up_rows, n, k_block, N, K, EVEN)
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if AHEAD:
        total, up_total, squares = _add_block(
            weight, up, total, up_total, squares, x_ptr, norm_ptr, k_block, K, GATED, HAS_NORM
        )
    for start in tl.range(BLOCK_K if AHEAD else 0, K, BLOCK_K, num_stages=STAGES):
        k = start + k_block
        weight = _load_block(weight_rows, n, k, N, K, EVEN)
        up = weight
        if GATED:
            up = _load_block(up_rows, n, k, N, K, EVEN)
        total, up_total, squares = _add_block(
            weight, up, total, up_total, squares, x_ptr, norm_ptr, k, K, GATED, HAS_NORM
        )
    result = tl.sum(total, axis=1)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=0) / K + eps)
        result *= scale
    if HAS_BIAS:
        result += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    result = activate(result, ACTIVATION)
    if GATED:
        up_result = tl.sum(up_total, axis=1)
        if HAS_NORM:
            up_result *= scale
        result *= up_result
    if HAS_RESIDUAL:
        result += tl.load(residual_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + n, result.to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def _load_rows(ptr, n, k, stride, N, K):
    """Rows of a weight, 0 where there are none."""
    mask = (n < N)[:, None] & (k < K)[None, :]
    place = ptr + n.to(tl.int64)[:, None] * stride + k[None, :]
    return tl.load(place, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _load_bias(bias_ptr, n, N, HAS_BIAS: tl.constexpr):
    if HAS_BIAS:
        return tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    return tl.zeros([n.shape[0]], tl.float32)


@triton.jit
def _finish_rows(
    weight, up, x, bias, n, residual_ptr, out_ptr, N,
    GATED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Multiplies a block of rows with x and writes the results."""
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    result = activate(tl.sum(weight.to(tl.float32) * x[None, :], axis=1) + bias, ACTIVATION)
    if GATED:
        result *= tl.sum(up.to(tl.float32) * x[None, :], axis=1)
    if HAS_RESIDUAL:
        result += residual
    tl.store(out_ptr + n, result.to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def _resident_kernel(
    x_ptr, weight_ptr, up_ptr, bias_ptr, residual_ptr, norm_ptr, out_ptr, N, weight_stride, up_stride, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr, ACTIVATION: tl.constexpr,
    EARLY: tl.constexpr, AHEAD: tl.constexpr, SINGLE: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if EARLY and not AHEAD:
        # The launch overlaps with the end of the kernel before; what that one writes may be anything, weights too.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    weight = _load_rows(weight_ptr, n, k, weight_stride, N, K)
    up = weight
    if GATED:
        up = _load_rows(up_ptr, n, k, up_stride, N, K)
    bias = _load_bias(bias_ptr, n, N, HAS_BIAS)
    if HAS_NORM:
        norm = tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    if EARLY and AHEAD:
        # Nothing that runs before writes the weights: they are on their way already.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    if HAS_NORM:
        x *= tl.rsqrt(tl.sum(x * x, axis=0) / K + eps)
        x *= norm
    if SINGLE:
        _finish_rows(weight, up, x, bias, n, residual_ptr, out_ptr, N, GATED, HAS_RESIDUAL, ACTIVATION)
    else:
        for _ in range(tl.program_id(0), tl.cdiv(N, BLOCK_N), tl.num_programs(0)):
            # The next block is on its way while this one is used; behind the last one there is nothing to load.
            next_n = n + tl.num_programs(0) * BLOCK_N
            next_weight = _load_rows(weight_ptr, next_n, k, weight_stride, N, K)
            next_up = next_weight
            if GATED:
                next_up = _load_rows(up_ptr, next_n, k, up_stride, N, K)
            next_bias = _load_bias(bias_ptr, next_n, N, HAS_BIAS)
            _finish_rows(weight, up, x, bias, n, residual_ptr, out_ptr, N, GATED, HAS_RESIDUAL, ACTIVATION)
            n, weight, up, bias = next_n, next_weight, next_up, next_bias


@dataclass(frozen=True)
class Plan:
    """How a launch is divided into programs.

    Attributes:
        block_n, block_k, warps: of a program; the resident kernel has all of K in a block.
        resident: programs a multiprocessor for the resident kernel; 0 for the walking one.
        early: launch while the kernel before is still running, and wait for its end in the kernel (programmatic
            dependent launch, from Hopper on).
        stages: of the walking kernel's loop: as many blocks less one are on their way while one is used.
    """

    block_n: int
    block_k: int
    warps: int
    resident: int = 0
    early: bool = False
    stages: int = 1


def choose_plan(n: int, k: int, *, gated: bool) -> Plan:
    """What was fastest on an H100 for the weights of models of 1.5 and 8 billion parameters."""
    if k > LONGEST_RESIDENT:
        return Plan(1, 1024, 4, early=True, stages=3) if k >= 8192 and n <= 2048 else Plan(2, 512, 2, early=True)
    if k > 2048:
        return Plan(4, 0, 4, resident=8, early=True)
    if n >= 65536:
        return Plan(2, 512, 2)
    return Plan(2, 0, 4 if n <= 4096 else 2, resident=WHOLE, early=True)


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    up: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    activation: str,
    out: torch.Tensor | None = None,
    plan: Plan | None = None,
    ahead: bool = False,
) -> torch.Tensor:
    """Runs a kernel: one of this file for one row, `skinny`'s for more.

    Args:
        x, weight, up, bias, residual, norm_weight, eps, activation: see the module's docstring.
        out: where the result goes: a matrix with a row for each row of x, elements side by side.
        plan: for one row, in place of the one that `choose_plan` makes.
        ahead: no kernel of the program that is captured writes the weights: with an early launch they are read before
            the kernel launched before has ended. Outside of such a capture nobody knows what that one writes: a fill of
            `out` then comes in between.
    """
    n, k = weight.shape
    matrix = as_rows(x)
    rows = matrix.shape[0]
    if out is None:
        out = empty_contiguous(x, (*x.shape[:-1], n))
    residual_rows = as_rows(residual) if residual is not None else None
    if rows > 1:
        narrow = out.view(rows, n)
        skinny.launch(matrix, weight, up, bias, residual_rows, activation, narrow, norm=norm_weight, eps=eps)
        return out
    plan = plan or choose_plan(n, k, gated=up is not None)
    tensors = (
        matrix, weight, up if up is not None else weight, bias if bias is not None else x,
        residual_rows if residual_rows is not None else x, norm_weight if norm_weight is not None else x, out,
    )  # fmt: skip
    blocks = triton.cdiv(n, plan.block_n)
    early = plan.early and begins_early(x.device)
    options: dict[str, Any] = {
        "K": k, "BLOCK_N": plan.block_n, "GATED": up is not None, "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": residual is not None, "HAS_NORM": norm_weight is not None, "ACTIVATION": activation,
        "EARLY": early, "AHEAD": ahead, "num_warps": plan.warps, "launch_pdl": early,
    }  # fmt: skip
    if early and ahead and not is_own_capture():
        out.zero_()
    strides = weight.stride(0), up.stride(0) if up is not None else 0
    if plan.resident:
        programs = min(blocks, plan.resident * multiprocessor_count(x.device))
        launch_kernel(
            _resident_kernel,
            (programs,),
            *tensors,
            n,
            *strides,
            eps,
            BLOCK_K=triton.next_power_of_2(k),
            SINGLE=programs == blocks,
            **options,
        )
        return out
    even = n % plan.block_n == 0 and k % plan.block_k == 0
    launch_kernel(
        _walking_kernel,
        (blocks,),
        *tensors,
        n,
        *strides,
        eps,
        BLOCK_K=plan.block_k,
        EVEN=even,
        STAGES=plan.stages,
        **options,
    )
    return out


@torch.library.custom_op("thunder::gemv", mutates_args=())
def gemv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    residual: Optional[torch.Tensor] = None,  # noqa: UP045
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-6,
    activation: str = "none",
    constant_weights: bool = False,
) -> torch.Tensor:
    """A linear layer on few rows, with what stands around it; see the module's docstring."""
    if runs_triton(x):
        return launch(x, weight, None, bias, residual, norm_weight, eps, activation, ahead=constant_weights)
    return gemv_reference(x, weight, bias, residual, norm_weight, eps, activation)


@gemv.register_fake
def _(x, weight, bias=None, residual=None, norm_weight=None, eps=1e-6, activation="none", constant_weights=False):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("thunder::gemv_gated", mutates_args=())
def gemv_gated(
    x: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-6,
    activation: str = "silu",
    constant_weights: bool = False,
) -> torch.Tensor:
    """The gated half of an MLP on few rows: both projections, the activation and the product."""
    if runs_triton(x):
        return launch(x, gate, up, None, None, norm_weight, eps, activation, ahead=constant_weights)
    return gemv_gated_reference(x, gate, up, norm_weight, eps, activation)


@gemv_gated.register_fake
def _(x, gate, up, norm_weight=None, eps=1e-6, activation="silu", constant_weights=False):
    return x.new_empty((*x.shape[:-1], gate.shape[0]))


GEMV = torch.ops.thunder.gemv.default
GEMV_GATED = torch.ops.thunder.gemv_gated.default


def gemv_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    activation: str = "none",
) -> torch.Tensor:
    """`gemv` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(x.dtype, torch.float32)
    hidden = normalised(x.to(wide), norm_weight, eps)
    result = F.linear(hidden, weight.to(wide), bias.to(wide) if bias is not None else None)
    result = ACTIVATIONS[activation](result)
    return (result if residual is None else residual.to(wide) + result).to(x.dtype)


def gemv_gated_reference(
    x: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    activation: str = "silu",
) -> torch.Tensor:
    """`gemv_gated` in plain PyTorch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    hidden = normalised(x.to(wide), norm_weight, eps)
    gated = ACTIVATIONS[activation](F.linear(hidden, gate.to(wide)))
    return (gated * F.linear(hidden, up.to(wide))).to(x.dtype)


def is_supported(x: torch.Tensor, *weights: torch.Tensor, gated: bool = False) -> bool:
    """Whether the kernels are used on these: few rows, 16-bit (on the CPU any) types, elements side by side.

    `gated`: the weights are gate and up. On a GPU, more than one row only where that is faster than cuBLAS.
    """
    on_gpu = kernel_device_type(x.device) == "cuda"
    types = (torch.bfloat16, torch.float16) if on_gpu else (torch.bfloat16, torch.float16, torch.float32)
    rows = rows_of(x)
    if not (x.dim() >= 1 and 1 <= rows <= MOST_ROWS and x.dtype in types and not x.requires_grad):
        return False
    if any(w.dtype is not x.dtype or w.dim() != 2 or w.stride(1) != 1 or w.device != x.device for w in weights):
        return False
    if not on_gpu or rows == 1 or not weights:
        return True
    n = weights[0].shape[0] if gated else sum(weight.shape[0] for weight in weights)
    return skinny.is_fastest(n, weights[0].shape[1], x.device)


def _residual(x, weight, bias, residual):
    return residual + F.linear(x, weight, bias)


def _residual_without_bias(x, weight, residual):
    return residual + F.linear(x, weight)


def _silu_gated(x, gate, up):
    return F.silu(F.linear(x, gate)) * F.linear(x, up)


def _gelu_gated(x, gate, up):
    return F.gelu(F.linear(x, gate)) * F.linear(x, up)


def _gelu_tanh_gated(x, gate, up):
    return F.gelu(F.linear(x, gate), approximate="tanh") * F.linear(x, up)


def _check_residual(x: Any, weight: Any, residual: Any, bias: Any = None) -> bool:
    tensors = all(isinstance(value, torch.Tensor) for value in (x, weight, residual))
    is_alike = tensors and residual.dtype is x.dtype and residual.shape == (*x.shape[:-1], weight.shape[0])
    return is_alike and is_supported(x, weight)


def _check_gated(x: Any, gate: Any, up: Any) -> bool:
    tensors = all(isinstance(value, torch.Tensor) for value in (x, gate, up))
    return tensors and is_supported(x, gate, up, gated=True)


register_library_kernel(
    "gemv_residual",
    [_residual, _residual_without_bias],
    GEMV,
    check=_check_residual,
    arguments=lambda x, weight, residual, bias=None: (x, weight, bias, residual),
    inference_only=True,
)
for _name, _pattern in (("silu", _silu_gated), ("gelu", _gelu_gated), ("gelu_tanh", _gelu_tanh_gated)):
    register_library_kernel(
        f"gemv_gated_{_name}",
        [_pattern],
        GEMV_GATED,
        check=_check_gated,
        arguments=lambda x, gate, up, activation=_name: (x, gate, up, None, 1e-6, activation),
        inference_only=True,
    )
