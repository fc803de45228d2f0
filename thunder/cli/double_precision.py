"""Runs a float32 program in float64 throughout, also where the program itself asks for float32.

Models cast to float32 in the middle (normalisation layers, rotary embeddings), so a model that was merely
converted with `.double()` is no closer to the truth than float32 there.

Input: any PyTorch code, run inside `with InDoublePrecision():`.  Output: what it computes in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


class InDoublePrecision(TorchFunctionMode):
    """Every request for float32 within the block becomes one for float64, and float64 is the default."""

    def __enter__(self) -> InDoublePrecision:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args, kwargs = pytree.tree_map(_widen, (args, kwargs or {}))
        return function(*args, **kwargs)


def _widen(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
