"""Which Triton kernels serve a tensor: those of `thunder.precision.kernels`, where Triton is and knows the format.

The kernels need Triton, without which everything is computed by plain PyTorch; they are imported at their first use.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch

from thunder import _torch_compat
from thunder.precision.scaled_product import capability

KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@functools.cache
def _kernels() -> Any:
    """The module of kernels, or None without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("thunder.precision.kernels")


def kernels_for(tensor: torch.Tensor, format: str, columns: int, dtype: torch.dtype) -> Any:
    """The module of kernels when these run on the tensor and know the format of a weight [N, columns]; else None."""
    if not (tensor.is_cuda or _torch_compat.is_triton_interpreted()) or dtype not in KERNEL_DTYPES:
        return None
    kernels = _kernels()
    if kernels is None or not kernels.knows(format, columns):
        return None
    return kernels


def float8_kernels_for(tensor: torch.Tensor) -> Any:
    """The module of kernels when these write the tensor as 8-bit floating point (from capability 8.9 on); else None."""
    if tensor.dtype not in KERNEL_DTYPES or tensor.numel() >= 1 << 31:
        return None
    if _torch_compat.is_triton_interpreted() or (tensor.is_cuda and capability(tensor.device) >= 89):
        return _kernels()
    return None
