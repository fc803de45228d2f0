"""LayerNorm, alone and with the addition before it.

    layer_norm      out = (x - m) * r * weight + bias      with m = mean(x), r = 1 / sqrt(var(x) + eps) of each row
    add_layer_norm  total = residual + x;  out = (total - m) * r * weight + bias

    backward        n = (x - m) * r,  u = grad * weight
                    grad_x      = r * (u - mean(u) - n * mean(u * n))  (+ grad_total)
                    grad_weight = sum over rows of grad * n,    grad_bias = sum over rows of grad

    x, residual, total, out, grad: [..., N]    weight, bias: [N] or None

Arithmetic is in float32.  A program holds a whole row in registers; the backward computes m and r again.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from thunder.kernels.launch import (
    LONGEST_ROW,
    as_rows,
    empty_contiguous,
    programs_adding_up,
    runs_triton,
    warps_of_row,
)
from thunder.kernels.machine_code import launch_kernel
from thunder.kernels.registry import register_library_kernel


@triton.jit
def _normalise(x, mask, N, eps):
    """((x - m) * r, r) of a row; 0 outside of it."""
    mean = tl.sum(x, axis=0) / N
    centred = tl.where(mask, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / N + eps)
    return centred * scale, scale


@triton.jit
def _layer_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, total_ptr, out_ptr, x_stride, residual_stride, N, eps,
    BLOCK: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    mask = n < N
    x = tl.load(x_ptr + row * x_stride + n, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + row * residual_stride + n, mask=mask, other=0.0).to(tl.float32)
        rounded = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * N + n, rounded, mask=mask)
        x = rounded.to(tl.float32)
    out, _ = _normalise(x, mask, N, eps)
    if HAS_WEIGHT:
        out *= tl.load(weight_ptr + n, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        out += tl.load(bias_ptr + n, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * N + n, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _layer_norm_backward_kernel(
    grad_ptr, x_ptr, weight_ptr, grad_total_ptr, grad_x_ptr, grad_weight_ptr, grad_bias_ptr,
    grad_stride, x_stride, grad_total_stride, rows, N, eps,
    BLOCK: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_TOTAL: tl.constexpr,
):  # fmt: skip
    n = tl.arange(0, BLOCK)
    mask = n < N
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + n, mask=mask, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([BLOCK], tl.float32)
    grad_bias = tl.zeros([BLOCK], tl.float32)
    for index in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(index, tl.int64)
        x = tl.load(x_ptr + row * x_stride + n, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * grad_stride + n, mask=mask, other=0.0).to(tl.float32)
        normalised, scale = _normalise(x, mask, N, eps)
        upstream = grad
        if HAS_WEIGHT:
            grad_weight += grad * normalised
            upstream = grad * weight
        grad_bias += grad
        mean = tl.sum(upstream, axis=0) / N
        grad_x = scale * (upstream - mean - normalised * (tl.sum(upstream * normalised, axis=0) / N))
        if HAS_TOTAL:
            grad_x += tl.load(grad_total_ptr + row * grad_total_stride + n, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + row * N + n, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    place = tl.program_id(0).to(tl.int64) * N + n
    tl.store(grad_weight_ptr + place, grad_weight, mask=mask)
    tl.store(grad_bias_ptr + place, grad_bias, mask=mask)


def _launch(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + residual, or x itself; the norm)."""
    rows = as_rows(x)
    residual_rows = as_rows(residual) if residual is not None else rows
    out = empty_contiguous(x, x.shape)
    total = empty_contiguous(x, x.shape) if residual is not None else x
    block = triton.next_power_of_2(rows.shape[1])
    if rows.shape[0]:
        launch_kernel(_layer_norm_kernel, (rows.shape[0],),
            rows, residual_rows, weight if weight is not None else rows, bias if bias is not None else rows, total,
            out, rows.stride(0), residual_rows.stride(0), rows.shape[1], eps, BLOCK=block,
            HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None,
            num_warps=warps_of_row(block),
        )  # fmt: skip
    return total, out


def _launch_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, eps: float, grad_total: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, grad_rows = as_rows(x), as_rows(grad)
    total_rows = as_rows(grad_total) if grad_total is not None else grad_rows
    count, size = rows.shape
    programs = programs_adding_up(count, x.device)
    block = triton.next_power_of_2(size)
    grad_x = empty_contiguous(x, x.shape)
    partial = empty_contiguous(x, (2, programs, size), torch.float32)
    launch_kernel(_layer_norm_backward_kernel, (programs,),
        grad_rows, rows, weight if weight is not None else rows, total_rows, grad_x, partial[0], partial[1],
        grad_rows.stride(0), rows.stride(0), total_rows.stride(0), count, size, eps, BLOCK=block,
        HAS_WEIGHT=weight is not None, HAS_TOTAL=grad_total is not None, num_warps=warps_of_row(block),
    )  # fmt: skip
    dtype = weight.dtype if weight is not None else x.dtype
    grad_weight, grad_bias = partial.sum(1).to(dtype)
    return grad_x, grad_weight.clone(), grad_bias.clone()


@torch.library.custom_op("thunder::layer_norm", mutates_args=())
def layer_norm(
    x: torch.Tensor,
    weight: Optional[torch.Tensor] = None,  # noqa: UP045  (torch.library reads the annotations)
    bias: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-5,
) -> torch.Tensor:
    """LayerNorm over the last dimension."""
    if runs_triton(x):
        return _launch(x, None, weight, bias, eps)[1]
    return layer_norm_reference(x, weight, bias, eps)


@layer_norm.register_fake
def _(x, weight=None, bias=None, eps=1e-5):
    return x.new_empty(x.shape)


@torch.library.custom_op("thunder::add_layer_norm", mutates_args=())
def add_layer_norm(
    residual: torch.Tensor,
    x: torch.Tensor,
    weight: Optional[torch.Tensor] = None,  # noqa: UP045
    bias: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(residual + x, its LayerNorm)."""
    if runs_triton(x):
        return _launch(x, residual, weight, bias, eps)
    total = (residual + x).contiguous()
    return total, layer_norm_reference(total, weight, bias, eps)


@add_layer_norm.register_fake
def _(residual, x, weight=None, bias=None, eps=1e-5):
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.custom_op("thunder::layer_norm_backward", mutates_args=())
def layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045
    eps: float,
    grad_total: Optional[torch.Tensor] = None,  # noqa: UP045
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight and bias, the latter two whether they exist or not."""
    if runs_triton(x):
        return _launch_backward(grad, x, weight, eps, grad_total)
    return layer_norm_backward_reference(grad, x, weight, eps, grad_total)


@layer_norm_backward.register_fake
def _(grad, x, weight, eps, grad_total=None):
    like = x if weight is None else weight
    return x.new_empty(x.shape), like.new_empty(x.shape[-1]), like.new_empty(x.shape[-1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, ctx.eps = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = torch.ops.thunder.layer_norm_backward(grad, x, weight, ctx.eps)
    return grad_x, grad_weight if weight is not None else None, grad_bias if ctx.has_bias else None, None


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, _, weight, bias, ctx.eps = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(output[0], weight)


def _differentiate_add(ctx: Any, grad_total: torch.Tensor | None, grad: torch.Tensor) -> tuple[Any, ...]:
    total, weight = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = torch.ops.thunder.layer_norm_backward(grad, total, weight, ctx.eps, grad_total)
    return grad_x, grad_x, grad_weight if weight is not None else None, grad_bias if ctx.has_bias else None, None


layer_norm.register_autograd(_differentiate, setup_context=_save)
add_layer_norm.register_autograd(_differentiate_add, setup_context=_save_add)


def layer_norm_reference(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """`layer_norm` in plain PyTorch, in float32 or, for float64 arguments, in float64."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (value.to(wide) if value is not None else None for value in (weight, bias))
    return F.layer_norm(x.to(wide), (x.shape[-1],), weight, bias, eps).to(x.dtype).contiguous()


def layer_norm_backward_reference(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    grad_total: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`layer_norm_backward` in plain PyTorch."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, upstream = x.to(dtype), grad.to(dtype)
    centred = wide - wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normalised = centred * scale
    like = x.dtype if weight is None else weight.dtype
    grad_weight = (upstream * normalised).reshape(-1, x.shape[-1]).sum(0).to(like)
    grad_bias = upstream.reshape(-1, x.shape[-1]).sum(0).to(like)
    if weight is not None:
        upstream = upstream * weight.to(dtype)
    projected = (upstream * normalised).mean(-1, keepdim=True)
    grad_x = scale * (upstream - upstream.mean(-1, keepdim=True) - normalised * projected)
    if grad_total is not None:
        grad_x = grad_x + grad_total.to(dtype)
    return grad_x.to(x.dtype).contiguous(), grad_weight, grad_bias


def _check(x: Any, shape: Any, weight: Any, eps: Any, bias: Any = None, residual: Any = None) -> bool:
    return (
        isinstance(x, torch.Tensor)
        and x.is_floating_point()
        and x.dim() >= 1
        and 0 < x.shape[-1] <= LONGEST_ROW
        and isinstance(eps, float)
        and tuple(shape) == (x.shape[-1],)
        and isinstance(weight, torch.Tensor)
        and (bias is None or bias.dtype == weight.dtype)
        and (residual is None or (isinstance(residual, torch.Tensor) and residual.shape == x.shape))
        and (residual is None or residual.dtype == x.dtype)
    )


def _with_bias(x, shape, weight, bias, eps):
    return F.layer_norm(x, shape, weight, bias, eps)


def _without_bias(x, shape, weight, eps):
    return F.layer_norm(x, shape, weight, None, eps)


def _add_with_bias(residual, x, shape, weight, bias, eps):
    total = residual + x
    return total, F.layer_norm(total, shape, weight, bias, eps)


def _add_without_bias(residual, x, shape, weight, eps):
    total = residual + x
    return total, F.layer_norm(total, shape, weight, None, eps)


register_library_kernel(
    "add_layer_norm",
    [_add_with_bias, _add_without_bias],
    torch.ops.thunder.add_layer_norm.default,
    check=_check,
    arguments=lambda residual, x, weight, eps, bias=None, **_: (residual, x, weight, bias, eps),
    is_fusible=True,
)
register_library_kernel(
    "layer_norm",
    [_with_bias, _without_bias],
    torch.ops.thunder.layer_norm.default,
    check=_check,
    arguments=lambda x, weight, eps, bias=None, **_: (x, weight, bias, eps),
    is_fusible=True,
)
