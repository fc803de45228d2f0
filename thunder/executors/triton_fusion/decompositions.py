"""Operators that kernels want to see in terms of others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from thunder import _torch_compat
from thunder.executors.triton_fusion.pointwise import compute_dtype
from thunder.lower.operators import aten

# These have good kernels of their own, or are better kept whole for passes that look for them.
_KEPT = (
    aten.embedding_dense_backward, aten.native_dropout, aten.native_dropout_backward, aten.addmm, aten.baddbmm,
    aten.index_add, aten.index_copy, aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm,
    aten._scaled_dot_product_flash_attention_for_cpu, aten.upsample_nearest2d, aten.upsample_bilinear2d,
    aten.grid_sampler_2d, aten.unfold_backward, aten.im2col, aten.col2im, aten.max_unpool2d, aten.multi_margin_loss,
    aten.native_batch_norm_backward, aten._batch_norm_with_update, aten.batch_norm_backward, aten._chunk_cat,
)  # fmt: skip

# In PyTorch's table beyond the core one.
_MORE = (
    aten.native_layer_norm_backward, aten.hardtanh, aten.leaky_relu, aten.elu, aten.repeat, aten.linalg_vector_norm,
    aten.expand_copy, aten.narrow_copy, aten._unsafe_index,
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table that lowering takes."""
    table = _torch_compat.core_decompositions()
    everything = _torch_compat.all_decompositions()
    for packet in _MORE:
        for overload in packet.overloads():
            operator = getattr(packet, overload)
            if operator in everything:
                table[operator] = everything[operator]
    for packet in _KEPT:
        for overload in packet.overloads():
            table.pop(getattr(packet, overload), None)
    table.update(
        {
            aten.bmm.default: _outer_products,
            aten._softmax.default: _softmax,
            aten._log_softmax.default: _log_softmax,
            aten.native_layer_norm.default: _native_layer_norm,
            aten.native_group_norm.default: _native_group_norm,
            aten.var_mean.correction: _var_mean,
            aten.var.correction: lambda *args, **kwargs: _var_mean(*args, **kwargs)[0],
        }
    )
    return table


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In the dtype that arithmetic is done in."""
    dtype = compute_dtype(tensor.dtype)
    return tensor if dtype is tensor.dtype else aten._to_copy.default(tensor, dtype=dtype)


def _narrow(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor if dtype is tensor.dtype else aten._to_copy.default(tensor, dtype=dtype)


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """In the layout that PyTorch's own operator gives its result."""
    if tensor.is_contiguous():
        return tensor
    return aten.clone.default(tensor, memory_format=torch.contiguous_format)


def _outer_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Products of columns with rows, as rotary embeddings make their angles: a multiplication, which can be fused."""
    if left.shape[2] != 1 or left.numel() == 0 or right.numel() == 0:
        return NotImplemented
    return _contiguous(aten.mul.Tensor(left, right))


def _softmax(tensor: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    if tensor.dim() == 0 or tensor.numel() == 0:
        return NotImplemented
    wide = _wide(tensor)
    powers = aten.exp.default(aten.sub.Tensor(wide, aten.amax.default(wide, [dim], True)))
    result = _contiguous(aten.div.Tensor(powers, aten.sum.dim_IntList(powers, [dim], True)))
    return _narrow(result, torch.float32 if half_to_float else tensor.dtype)


def _log_softmax(tensor: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    if tensor.dim() == 0 or tensor.numel() == 0:
        return NotImplemented
    wide = _wide(tensor)
    shifted = aten.sub.Tensor(wide, aten.amax.default(wide, [dim], True))
    total = aten.log.default(aten.sum.dim_IntList(aten.exp.default(shifted), [dim], True))
    return _narrow(_contiguous(aten.sub.Tensor(shifted, total)), torch.float32 if half_to_float else tensor.dtype)


def _native_layer_norm(
    tensor: torch.Tensor, shape: list[int], weight: torch.Tensor | None, bias: torch.Tensor | None, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if tensor.numel() == 0:
        return NotImplemented
    dims = list(range(tensor.dim() - len(shape), tensor.dim()))
    wide = _wide(tensor)
    mean = aten.mean.dim(wide, dims, True)
    centred = aten.sub.Tensor(wide, mean)
    variance = aten.mean.dim(aten.mul.Tensor(centred, centred), dims, True)
    scale = aten.rsqrt.default(aten.add.Scalar(variance, epsilon))
    result = aten.mul.Tensor(centred, scale)
    if weight is not None:
        result = aten.mul.Tensor(result, _wide(weight))
    if bias is not None:
        result = aten.add.Tensor(result, _wide(bias))
    return _narrow(result, tensor.dtype), mean, scale


def _native_group_norm(
    tensor: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    batch: int,
    channels: int,
    pixels: int,
    groups: int,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if tensor.numel() == 0 or not tensor.is_contiguous():
        return NotImplemented
    wide = _wide(aten.view.default(tensor, [batch, groups, channels // groups * pixels]))
    mean = aten.mean.dim(wide, [2], True)
    centred = aten.sub.Tensor(wide, mean)
    scale = aten.rsqrt.default(aten.add.Scalar(aten.mean.dim(aten.mul.Tensor(centred, centred), [2], True), epsilon))
    result = aten.view.default(aten.mul.Tensor(centred, scale), list(tensor.shape))
    of_channels = [1, channels, *[1] * (tensor.dim() - 2)]
    if weight is not None:
        result = aten.mul.Tensor(result, _wide(aten.view.default(weight, of_channels)))
    if bias is not None:
        result = aten.add.Tensor(result, _wide(aten.view.default(bias, of_channels)))
    statistics = [aten.view.default(value, [batch, groups]) for value in (mean, scale)]
    return _narrow(result, tensor.dtype), statistics[0], statistics[1]


def _var_mean(
    tensor: torch.Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    if not tensor.dtype.is_floating_point or tensor.numel() == 0 or tensor.dim() == 0:
        return NotImplemented
    dims = list(range(tensor.dim())) if not dim else [axis % tensor.dim() for axis in dim]
    count = 1
    for axis in dims:
        count *= tensor.shape[axis]
    wide = _wide(tensor)
    mean = aten.mean.dim(wide, dims, True)
    centred = aten.sub.Tensor(wide, mean)
    total = aten.sum.dim_IntList(aten.mul.Tensor(centred, centred), dims, keepdim)
    divisor = count - (1 if correction is None else correction)
    variance = aten.div.Scalar(total, divisor) if divisor > 0 else aten.mul.Scalar(total, float("nan"))
    mean = mean if keepdim else aten.squeeze.dims(mean, dims)
    return _narrow(variance, tensor.dtype), _narrow(mean, tensor.dtype)
