"""The functions of the device's mathematical library that kernels call, for Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import triton.language as tl
from triton.runtime.interpreter import TensorHandle


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*arguments: Any) -> Any:
        first = next(argument for argument in arguments if isinstance(argument, tl.core.tensor))
        values = [argument.handle.data if isinstance(argument, tl.core.tensor) else argument for argument in arguments]
        with numpy.errstate(all="ignore"):
            result = function(*values).astype(first.handle.data.dtype)
        is_block = any(argument.type.is_block() for argument in arguments if isinstance(argument, tl.core.tensor))
        kind = tl.block_type(first.type.scalar, list(result.shape)) if is_block else first.type.scalar
        return tl.core.tensor(TensorHandle(result, first.handle.dtype), kind)

    return apply


tanh = _elementwise(numpy.tanh)
expm1 = _elementwise(numpy.expm1)
log1p = _elementwise(numpy.log1p)
trunc = _elementwise(numpy.trunc)
pow = _elementwise(numpy.power)
