"""Linear layers on few rows, as in decoding: every weight is read once, at the speed of memory.

    gemv        out[m, n] = residual[m, n] + act(bias[n] + sum_k h[m, k] * weight[n, k])
    gemv_gated  out[m, n] = act(sum_k h[m, k] * gate[n, k]) * sum_k h[m, k] * up[n, k]

with h = x, or, when `norm_weight` is given, h = x * norm_weight / sqrt(mean(x^2) + eps) (RMSNorm).

    x: [..., K] with 1 to 8 rows    weight, gate, up: [N, K]    bias: [N]    residual, out: [..., N]

Products are added up in float32.  There are two kernels.  In the walking one, a program computes BLOCK_N outputs of
every row and walks along K in steps of BLOCK_K, so that a warp reads whole cache lines of a row of the weight; the
norm's factor is one number for each row of x, known at the end of the walk.  In the resident one, for one row of at
most `LONGEST_RESIDENT` elements, a program holds the normalised x in registers and goes through many blocks of rows of
the weight: x, which all programs read, and the norm are then read seldom.

These are for inference: they have no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.activation import ACTIVATIONS, activate
from thunder.kernels.launch import as_rows, begins_early, empty_contiguous, multiprocessor_count, rows_of, runs_triton
from thunder.kernels.registry import register_library_kernel

MOST_ROWS = 8
FASTEST_ROWS = 1  # on more rows than these, cuBLAS was faster on an H100
LONGEST_RESIDENT = 4096


@triton.jit
def _load_block(weight_rows, n, k, N, K: tl.constexpr, EVEN: tl.constexpr):
    """A block of a weight, 0 where there is none."""
    if EVEN:
        return tl.load(weight_rows + k[None, :], eviction_policy="evict_first")
    mask = (n < N)[:, None] & (k < K)[None, :]
    return tl.load(weight_rows + k[None, :], mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _add_block(
    weight, up, total, up_total, squares, x_ptr, norm_ptr, k, m, rows, x_stride,
    K: tl.constexpr, GATED: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Adds the products of a block of the weights with x."""
    x_mask = (m < rows)[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + m[:, None] * x_stride + k[None, :], mask=x_mask, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares += x * x
        x *= tl.load(norm_ptr + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
    total += x[:, None, :] * weight.to(tl.float32)[None, :, :]
    if GATED:
        up_total += x[:, None, :] * up.to(tl.float32)[None, :, :]
    return total, up_total, squares


@triton.jit
def _gemv_kernel(
    x_ptr, weight_ptr, up_ptr, bias_ptr, residual_ptr, norm_ptr, out_ptr,
    rows, N, x_stride, weight_stride, up_stride, residual_stride, out_stride, eps,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr,
    ACTIVATION: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, ROWS)
    k_block = tl.arange(0, BLOCK_K)
    weight_rows = weight_ptr + n.to(tl.int64)[:, None] * weight_stride
    up_rows = up_ptr + n.to(tl.int64)[:, None] * up_stride
    total = tl.zeros([ROWS, BLOCK_N, BLOCK_K], tl.float32)
    up_total = tl.zeros([ROWS, BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([ROWS, BLOCK_K], tl.float32)
    if EARLY and not AHEAD:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if AHEAD:
        weight = _load_block(weight_rows, n, k_block, N, K, EVEN_N and EVEN_K)
        up = weight
        if GATED:
            up = _load_block(up_rows, n, k_block, N, K, EVEN_N and EVEN_K)
        if EARLY:
            # Nothing that runs before writes the weights: the first are on their way already.
            tl.extra.cuda.gdc_wait()
            tl.extra.cuda.gdc_launch_dependents()
        total, up_total, squares = _add_block(
            weight, up, total, up_total, squares, x_ptr, norm_ptr, k_block, m, rows, x_stride, K, GATED, HAS_NORM
        )
    for start in tl.range(BLOCK_K if AHEAD else 0, K, BLOCK_K, num_stages=STAGES):
        k = start + k_block
        weight = _load_block(weight_rows, n, k, N, K, EVEN_N and EVEN_K)
        up = weight
        if GATED:
            up = _load_block(up_rows, n, k, N, K, EVEN_N and EVEN_K)
        total, up_total, squares = _add_block(
            weight, up, total, up_total, squares, x_ptr, norm_ptr, k, m, rows, x_stride, K, GATED, HAS_NORM
        )
    result = tl.sum(total, axis=2)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=1) / K + eps)[:, None]
        result *= scale
    if HAS_BIAS:
        result += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    result = activate(result, ACTIVATION)
    if GATED:
        up_result = tl.sum(up_total, axis=2)
        if HAS_NORM:
            up_result *= scale
        result *= up_result
    mask = (m < rows)[:, None] & (n < N)[None, :]
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + m[:, None] * residual_stride + n[None, :], mask=mask, other=0.0)
        result += residual.to(tl.float32)
    tl.store(out_ptr + m[:, None] * out_stride + n[None, :], result.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_rows(ptr, block, k, stride, N, K, BLOCK_N: tl.constexpr):
    """A block of rows of a weight, 0 where there are none."""
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (n < N)[:, None] & (k < K)[None, :]
    place = ptr + n.to(tl.int64)[:, None] * stride + k[None, :]
    return tl.load(place, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _finish_rows(
    weight, up, x, n, bias_ptr, residual_ptr, out_ptr, N,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Multiplies a block of rows with x and writes the results."""
    result = tl.sum(weight.to(tl.float32) * x[None, :], axis=1)
    if HAS_BIAS:
        result += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    result = activate(result, ACTIVATION)
    if GATED:
        result *= tl.sum(up.to(tl.float32) * x[None, :], axis=1)
    if HAS_RESIDUAL:
        result += tl.load(residual_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + n, result.to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def _resident_kernel(
    x_ptr, weight_ptr, up_ptr, bias_ptr, residual_ptr, norm_ptr, out_ptr, N, weight_stride, up_stride, eps,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr, ACTIVATION: tl.constexpr,
    EARLY: tl.constexpr, AHEAD: tl.constexpr, SINGLE: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    first = tl.program_id(0)
    if EARLY and not AHEAD:
        # The launch overlaps with the end of the kernel before; what that one writes may be anything, weights too.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if SINGLE:
        weight = _load_rows(weight_ptr, first, k, weight_stride, N, K, BLOCK_N)
        up = weight
        if GATED:
            up = _load_rows(up_ptr, first, k, up_stride, N, K, BLOCK_N)
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
        n = first * BLOCK_N + tl.arange(0, BLOCK_N)
        _finish_rows(weight, up, x, n, bias_ptr, residual_ptr, out_ptr, N, GATED, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)
    else:
        for block in range(first, tl.cdiv(N, BLOCK_N), tl.num_programs(0)):
            n = block * BLOCK_N + tl.arange(0, BLOCK_N)
            weight = _load_rows(weight_ptr, block, k, weight_stride, N, K, BLOCK_N)
            up = weight
            if GATED:
                up = _load_rows(up_ptr, block, k, up_stride, N, K, BLOCK_N)
            _finish_rows(
                weight, up, x, n, bias_ptr, residual_ptr, out_ptr, N, GATED, HAS_BIAS, HAS_RESIDUAL, ACTIVATION
            )


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


def choose_plan(rows: int, n: int, k: int, *, gated: bool) -> Plan:
    """What was fastest on an H100 for the weights of models of 1.5 and 8 billion parameters."""
    if rows == 1:
        if k >= 8192:
            return Plan(1 if n <= 2048 else 2, 1024, 4)
        if k > LONGEST_RESIDENT:
            return Plan(2, 512, 2)
        if k > 2048 or n <= 4096:
            return Plan(4, 0, 4, resident=8, early=True)
        return Plan(1, 0, 1, resident=1 << 16) if n < 65536 else Plan(2, 512, 2)
    padded = triton.next_power_of_2(rows)
    block_k = min(1024, triton.next_power_of_2(k))
    while padded * 2 * block_k * (2 if gated else 1) > 8192 and block_k > 256:
        block_k //= 2
    return Plan(2, block_k, 4)


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
    """Runs the kernel.

    Args:
        x, weight, up, bias, residual, norm_weight, eps, activation: see the module's docstring.
        out: where the result goes: a matrix with a row for each row of x, elements side by side.
        plan: in place of the one that `choose_plan` makes.
        ahead: the kernel launched before does not write the weights: with an early launch they are read before that
            kernel has ended.
    """
    n, k = weight.shape
    matrix = as_rows(x)
    rows = matrix.shape[0]
    if out is None:
        out = empty_contiguous(x, (*x.shape[:-1], n))
    residual_rows = as_rows(residual) if residual is not None else matrix
    plan = plan or choose_plan(rows, n, k, gated=up is not None)
    tensors = (
        matrix, weight, up if up is not None else weight, bias if bias is not None else x, residual_rows,
        norm_weight if norm_weight is not None else x, out,
    )  # fmt: skip
    up_stride = up.stride(0) if up is not None else 0
    blocks = triton.cdiv(n, plan.block_n)
    flags = {
        "GATED": up is not None, "HAS_BIAS": bias is not None, "HAS_RESIDUAL": residual is not None,
        "HAS_NORM": norm_weight is not None, "ACTIVATION": activation,
    }  # fmt: skip
    early = plan.early and begins_early(x.device)
    options = {"num_warps": plan.warps, **({"launch_pdl": True} if early else {})}
    if plan.resident:
        programs = min(blocks, plan.resident * multiprocessor_count(x.device))
        _resident_kernel[(programs,)](
            *tensors, n, weight.stride(0), up_stride, eps, K=k, BLOCK_N=plan.block_n,
            BLOCK_K=triton.next_power_of_2(k), **flags, EARLY=early, AHEAD=early and ahead, SINGLE=programs == blocks,
            **options,
        )  # fmt: skip
        return out
    _gemv_kernel[(blocks,)](
        *tensors, rows, n, matrix.stride(0), weight.stride(0), up_stride,
        residual_rows.stride(0), out.stride(-2) if out.dim() > 1 else n, eps,
        K=k, ROWS=triton.next_power_of_2(rows), BLOCK_N=plan.block_n, BLOCK_K=plan.block_k,
        EVEN_N=n % plan.block_n == 0, EVEN_K=k % plan.block_k == 0, **flags,
        EARLY=early, AHEAD=early and ahead, STAGES=plan.stages, **options,
    )  # fmt: skip
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
) -> torch.Tensor:
    """A linear layer on few rows, with what stands around it; see the module's docstring."""
    if runs_triton(x):
        return launch(x, weight, None, bias, residual, norm_weight, eps, activation)
    return gemv_reference(x, weight, bias, residual, norm_weight, eps, activation)


@gemv.register_fake
def _(x, weight, bias=None, residual=None, norm_weight=None, eps=1e-6, activation="none"):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("thunder::gemv_gated", mutates_args=())
def gemv_gated(
    x: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-6,
    activation: str = "silu",
) -> torch.Tensor:
    """The gated half of an MLP on few rows: both projections, the activation and the product."""
    if runs_triton(x):
        return launch(x, gate, up, None, None, norm_weight, eps, activation)
    return gemv_gated_reference(x, gate, up, norm_weight, eps, activation)


@gemv_gated.register_fake
def _(x, gate, up, norm_weight=None, eps=1e-6, activation="silu"):
    return x.new_empty((*x.shape[:-1], gate.shape[0]))


GEMV = torch.ops.thunder.gemv.default
GEMV_GATED = torch.ops.thunder.gemv_gated.default


def normalised(x: torch.Tensor, norm_weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """RMSNorm, when there is a weight for it."""
    if norm_weight is None:
        return x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * norm_weight.to(x.dtype)


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


def is_supported(x: torch.Tensor, *weights: torch.Tensor) -> bool:
    """Whether the kernels are used on these: few rows, 16-bit (on the CPU any) types, elements side by side."""
    most_rows = FASTEST_ROWS if x.is_cuda else MOST_ROWS
    types = (torch.bfloat16, torch.float16) if x.is_cuda else (torch.bfloat16, torch.float16, torch.float32)
    return (
        x.dim() >= 1
        and 1 <= rows_of(x) <= most_rows
        and x.dtype in types
        and not x.requires_grad
        and all(w.dtype is x.dtype and w.dim() == 2 and w.stride(1) == 1 and w.device == x.device for w in weights)
    )


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
    return tensors and is_supported(x, gate, up)


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
