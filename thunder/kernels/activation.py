"""The activation functions that kernels apply to their results: in PyTorch (`plain_forms`), and in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from thunder.kernels.plain_forms import ACTIVATIONS

__all__ = ["ACTIVATIONS", "activate"]


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """An activation function in float32."""
    if ACTIVATION == "silu":
        x = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x / (1.0 + tl.exp(-2.0 * inner))
    return x
