"""RMSNorm, alone and with the addition before it.

    rms_norm      out = x * r * (weight + offset)         with r = 1 / sqrt(mean(x^2) + eps) of each row
    add_rms_norm  total = residual + x;  out = total * r * (weight + offset)

    backward      n = x * r,  u = grad * (weight + offset)
                  grad_x      = r * (u - n * mean(u * n))  (+ grad_total)
                  grad_weight = sum over rows of grad * n

    x, residual, total, out, grad: [..., N]    weight: [N] or None

Arithmetic is in float32.  A program holds a whole row in registers, so that x is read once; the backward computes r
again from the row that it reads anyway.  The gradient of the weight is added up over the rows of a program in
registers, and over programs in float32.
"""

from __future__ import annotations

import inspect
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.launch import (
    LONGEST_ROW,
    as_rows,
    begins_early,
    empty_contiguous,
    programs_adding_up,
    runs_triton,
    warps_of_row,
)
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.registry import register_library_kernel

FEW_ROWS = 16  # a kernel that is shorter than its launch begins while the one before is running


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, total_ptr, out_ptr, x_stride, residual_stride, N, eps, offset,
    BLOCK: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    mask = n < N
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()  # the next kernel asks for its weights while this one waits
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + row * x_stride + n, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + row * residual_stride + n, mask=mask, other=0.0).to(tl.float32)
        rounded = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * N + n, rounded, mask=mask)
        x = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / N + eps)
    out = x * scale
    if HAS_WEIGHT:
        out *= tl.load(weight_ptr + n, mask=mask, other=0.0).to(tl.float32) + offset
    tl.store(out_ptr + row * N + n, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _rms_norm_backward_kernel(
    grad_ptr, x_ptr, weight_ptr, grad_total_ptr, grad_x_ptr, grad_weight_ptr,
    grad_stride, x_stride, grad_total_stride, rows, N, eps, offset,
    BLOCK: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_TOTAL: tl.constexpr,
):  # fmt: skip
    n = tl.arange(0, BLOCK)
    mask = n < N
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + n, mask=mask, other=0.0).to(tl.float32) + offset
    grad_weight = tl.zeros([BLOCK], tl.float32)
    for index in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(index, tl.int64)
        x = tl.load(x_ptr + row * x_stride + n, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * grad_stride + n, mask=mask, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(x * x, axis=0) / N + eps)
        normalised = x * scale
        upstream = grad
        if HAS_WEIGHT:
            grad_weight += grad * normalised
            upstream = grad * weight
        grad_x = scale * (upstream - normalised * (tl.sum(upstream * normalised, axis=0) / N))
        if HAS_TOTAL:
            grad_x += tl.load(grad_total_ptr + row * grad_total_stride + n, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + row * N + n, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    if HAS_WEIGHT:
        tl.store(grad_weight_ptr + tl.program_id(0).to(tl.int64) * N + n, grad_weight, mask=mask)


def _launch(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, eps: float, offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + residual, or x itself; the norm)."""
    rows = as_rows(x)
    residual_rows = as_rows(residual) if residual is not None else rows
    out = empty_contiguous(x, x.shape)
    total = empty_contiguous(x, x.shape) if residual is not None else x
    block = triton.next_power_of_2(rows.shape[1])
    early = rows.shape[0] <= FEW_ROWS and begins_early(x.device)
    if rows.shape[0]:
        launch_kernel(_rms_norm_kernel, (rows.shape[0],),
            rows, residual_rows, weight if weight is not None else rows, total, out,
            rows.stride(0), residual_rows.stride(0), rows.shape[1], eps, offset,
            BLOCK=block, HAS_WEIGHT=weight is not None, HAS_RESIDUAL=residual is not None,
            EARLY=early, num_warps=warps_of_row(block), launch_pdl=early,
        )  # fmt: skip
    return total, out


def _launch_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    grad_total: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, grad_rows = as_rows(x), as_rows(grad)
    total_rows = as_rows(grad_total) if grad_total is not None else grad_rows
    count, size = rows.shape
    programs = programs_adding_up(count, x.device)
    block = triton.next_power_of_2(size)
    grad_x = empty_contiguous(x, x.shape)
    partial = empty_contiguous(x, (programs if weight is not None else 0, size), torch.float32)
    launch_kernel(_rms_norm_backward_kernel, (programs,),
        grad_rows, rows, weight if weight is not None else rows, total_rows, grad_x, partial,
        grad_rows.stride(0), rows.stride(0), total_rows.stride(0), count, size, eps, offset,
        BLOCK=block, HAS_WEIGHT=weight is not None, HAS_TOTAL=grad_total is not None, num_warps=warps_of_row(block),
    )  # fmt: skip
    return grad_x, partial.sum(0).to(weight.dtype) if weight is not None else partial.new_empty(0)


@torch.library.custom_op("thunder::rms_norm", mutates_args=())
def rms_norm(
    x: torch.Tensor,
    weight: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    eps: float = 1e-6,
    offset: float = 0.0,
) -> torch.Tensor:
    """RMSNorm over the last dimension."""
    if runs_triton(x):
        return _launch(x, None, weight, eps, offset)[1]
    return rms_norm_reference(x, weight, eps, offset)


@rms_norm.register_fake
def _(x, weight=None, eps=1e-6, offset=0.0):
    return x.new_empty(x.shape)


@torch.library.custom_op("thunder::add_rms_norm", mutates_args=())
def add_rms_norm(
    residual: torch.Tensor,
    x: torch.Tensor,
    weight: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-6,
    offset: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(residual + x, its RMSNorm)."""
    if runs_triton(x):
        return _launch(x, residual, weight, eps, offset)
    total = residual + x
    return total, rms_norm_reference(total, weight, eps, offset)


@add_rms_norm.register_fake
def _(residual, x, weight=None, eps=1e-6, offset=0.0):
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.custom_op("thunder::rms_norm_backward", mutates_args=())
def rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045
    eps: float,
    offset: float,
    grad_total: Optional[torch.Tensor] = None,  # noqa: UP045
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x and of the weight (empty without one)."""
    if runs_triton(x):
        return _launch_backward(grad, x, weight, eps, offset, grad_total)
    return rms_norm_backward_reference(grad, x, weight, eps, offset, grad_total)


@rms_norm_backward.register_fake
def _(grad, x, weight, eps, offset, grad_total=None):
    return x.new_empty(x.shape), x.new_empty(0) if weight is None else weight.new_empty(weight.shape)


RMS_NORM = torch.ops.thunder.rms_norm.default
ADD_RMS_NORM = torch.ops.thunder.add_rms_norm.default


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, ctx.eps, ctx.offset = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.thunder.rms_norm_backward(grad, x, weight, ctx.eps, ctx.offset)
    return grad_x, grad_weight if weight is not None else None, None, None


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, _, weight, ctx.eps, ctx.offset = inputs
    ctx.save_for_backward(output[0], weight)


def _differentiate_add(ctx: Any, grad_total: torch.Tensor | None, grad: torch.Tensor) -> tuple[Any, ...]:
    total, weight = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.thunder.rms_norm_backward(grad, total, weight, ctx.eps, ctx.offset, grad_total)
    return grad_x, grad_x, grad_weight if weight is not None else None, None, None


rms_norm.register_autograd(_differentiate, setup_context=_save)
add_rms_norm.register_autograd(_differentiate_add, setup_context=_save_add)


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-6, offset: float = 0.0
) -> torch.Tensor:
    """`rms_norm` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    out = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        out = out * (weight.to(wide.dtype) + offset)
    return out.to(x.dtype)


def rms_norm_backward_reference(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    grad_total: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rms_norm_backward` in plain PyTorch."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, upstream = x.to(dtype), grad.to(dtype)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normalised = wide * scale
    grad_weight = x.new_empty(0)
    if weight is not None:
        grad_weight = (upstream * normalised).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        upstream = upstream * (weight.to(dtype) + offset)
    grad_x = scale * (upstream - normalised * (upstream * normalised).mean(-1, keepdim=True))
    if grad_total is not None:
        grad_x = grad_x + grad_total.to(dtype)
    return grad_x.to(x.dtype), grad_weight


def is_last_dimension(dim: Any, x: torch.Tensor) -> bool:
    """Whether a function's argument `dim` says: the last dimension."""
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    return dims in ((-1,), (x.dim() - 1,))


def _check(
    x: Any, weight: Any, eps: Any, dim: Any = -1, shape: Any = None, residual: Any = None, **dtypes: Any
) -> bool:
    wide, dtype = dtypes.get("wide"), dtypes.get("dtype")
    return (
        isinstance(x, torch.Tensor)
        and x.is_floating_point()
        and 0 < x.shape[-1] <= LONGEST_ROW
        and isinstance(eps, float)
        and is_last_dimension(dim, x)
        and (shape is None or tuple(shape) == (x.shape[-1],))
        and (weight is None or (isinstance(weight, torch.Tensor) and weight.shape == (x.shape[-1],)))
        and wide in (None, torch.float32)
        and dtype in (None, x.dtype)
        and (residual is None or (isinstance(residual, torch.Tensor) and residual.shape == x.shape))
        and (residual is None or residual.dtype == x.dtype)
    )


def _of_wide(h: Any, eps: Any, dim: Any) -> Any:
    return h * torch.rsqrt(h.pow(2).mean(dim, keepdim=True) + eps)


def _hugging_face(x, weight, eps, dim, wide, dtype):
    return weight * _of_wide(x.to(wide), eps, dim).to(dtype)


def _hugging_face_float32(x, weight, eps, dim):
    return weight * _of_wide(x, eps, dim)


def _litgpt(x, weight, eps, dim, wide, wide_weight, dtype):
    h = x.to(wide)
    return (h * torch.rsqrt((h * h).mean(dim, keepdim=True) + eps) * weight.to(wide_weight)).to(dtype)


def _litgpt_float32(x, weight, eps, dim):
    return x * torch.rsqrt((x * x).mean(dim, keepdim=True) + eps) * weight


def _functional(x, shape, weight, eps):
    return F.rms_norm(x, shape, weight, eps)


def _with_addition(norm: Any) -> Any:
    """The spelling with x = residual + y, where the sum is handed out too."""

    def pattern(residual, x, weight, eps, dim, wide, wide_weight, dtype, shape):
        total = residual + x
        values = {"dim": dim, "wide": wide, "wide_weight": wide_weight, "dtype": dtype, "shape": shape}
        given = {name: values[name] for name in inspect.signature(norm).parameters if name in values}
        return total, norm(total, weight=weight, eps=eps, **given)

    return pattern


_SPELLINGS = (_hugging_face, _hugging_face_float32, _litgpt, _litgpt_float32, _functional)

register_library_kernel(
    "add_rms_norm",
    [_with_addition(norm) for norm in _SPELLINGS],
    ADD_RMS_NORM,
    check=_check,
    arguments=lambda residual, x, weight, eps, **_: (residual, x, weight, eps),
    is_fusible=True,
)
register_library_kernel(
    "rms_norm",
    _SPELLINGS,
    RMS_NORM,
    check=_check,
    arguments=lambda x, weight, eps, **_: (x, weight, eps),
    is_fusible=True,
)
