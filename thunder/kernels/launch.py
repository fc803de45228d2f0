"""Where a Triton kernel runs, and how large its programs are: shared by all files of the library.

A custom op of the library runs its Triton kernel on CUDA tensors, and on CPU tensors under Triton's interpreter
(`TRITON_INTERPRET=1`, as the tests do).  On other CPU tensors it computes its plain PyTorch form.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton

# A longer row is not held in the registers of one program.
LONGEST_ROW = 16384


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, whose matrix products know no bfloat16."""
    return bool(triton.knobs.runtime.interpret)


def runs_triton(tensor: torch.Tensor) -> bool:
    """Whether a kernel on this tensor is Triton's to run."""
    return tensor.is_cuda or is_interpreted()


@functools.cache
def multiprocessor_count(device: torch.device) -> int:
    """Number of multiprocessors; a small number for the CPU, where the interpreter runs one program at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def programs_adding_up(rows: int, device: torch.device) -> int:
    """How many programs share the rows of a sum over rows: enough to fill the device, few enough partial sums."""
    return max(1, min(rows, 4 * multiprocessor_count(device)))


def warps_of_row(block: int) -> int:
    """Warps of a program that holds one row of `block` elements in registers."""
    return min(16, max(1, block // 512))


@functools.cache
def begins_early(device: torch.device) -> bool:
    """Whether a kernel can begin while the one before it ends (programmatic dependent launch)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def rows_of(tensor: torch.Tensor) -> int:
    """Number of vectors along the last dimension."""
    return tensor.numel() // tensor.shape[-1] if tensor.shape[-1] else 0


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as a matrix of its last dimension, whose elements lie side by side; a view where that is possible."""
    matrix = tensor.reshape(-1, tensor.shape[-1])
    return matrix if matrix.stride(-1) == 1 or matrix.shape[-1] == 1 else matrix.contiguous()


def empty_contiguous(like: torch.Tensor, shape: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An uninitialised tensor, rows side by side."""
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device)
