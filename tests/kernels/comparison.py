"""Compares a kernel's values with a reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Relative errors ||out - ref|| / ||ref|| that rounding alone explains. Triton's interpreter rounds to bfloat16 by
# truncation, which doubles the error.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}


def wide(value: Any) -> Any:
    """Tensors of floating point, also in lists, in float64."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(map(wide, value))
    return value


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """||out - reference|| / ||reference||; infinite when anything is not finite."""
    error = (out.double() - reference.double()).norm() / reference.double().norm().clamp_min(1e-30)
    return float(error) if bool(torch.isfinite(error)) else float("inf")


def assert_as_exact(
    kernel: Callable[..., Any], reference: Callable[..., Any], *arguments: Any, dtype: torch.dtype
) -> None:
    """The kernel's results are as near to the reference in float64 as `dtype` allows."""
    outs, exact = kernel(*arguments), reference(*wide(arguments))
    pairs = zip(outs, exact) if isinstance(outs, (tuple, list)) else [(outs, exact)]
    for out, value in pairs:
        assert out.shape == value.shape
        assert relative_error(out, value) <= TOLERANCE[dtype]


def assert_gradients_as_exact(
    kernel: Callable[..., Any], reference: Callable[..., Any], *arguments: Any, dtype: torch.dtype
) -> None:
    """The gradients of the kernel are those of the reference in float64, for random gradients of the results."""

    def gradients(function: Callable[..., Any], values: tuple[Any, ...]) -> list[torch.Tensor]:
        leaves = [v.detach().requires_grad_() if _differentiable(v) else v for v in values]
        results = function(*leaves)
        results = results if isinstance(results, (tuple, list)) else (results,)
        generator = torch.Generator().manual_seed(1)
        tangents = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
        return list(torch.autograd.grad(results, [leaf for leaf in leaves if _differentiable(leaf)], tangents))

    found, exact = gradients(kernel, arguments), gradients(reference, wide(arguments))
    assert len(found) == len(exact) > 0
    for gradient, value in zip(found, exact):
        assert gradient.shape == value.shape
        assert relative_error(gradient, value) <= TOLERANCE[dtype]


def _differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
