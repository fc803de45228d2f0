"""`thunder.grad`: the gradient of a function as a compiled function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.errors import OptionError
from thunder.frontend.jit import jit


def grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0, **options: Any) -> Callable[..., Any]:
    """The function that computes the gradient of `fn`, which must return a scalar tensor.

    Args:
        fn: a function of tensors.
        argnums: position or positions of the arguments with respect to which it is differentiated.
        options: as in `thunder.jit`.

    Returns:
        A function of the same arguments; it returns one gradient, or a tuple of them for several positions, each with
        the shape of its argument.

    Example:
        >>> import torch, thunder
        >>> thunder.grad(lambda x: (x * x).sum())(torch.tensor([3.0]))
        tensor([6.])
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    compiled = jit(fn, **options)

    @functools.wraps(fn)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        for position in positions:
            if position >= len(args) or not isinstance(args[position], torch.Tensor):
                raise OptionError(f"argument {position} of {fn!r} is no tensor", remedy="choose other argnums")
        with torch.enable_grad():
            inputs = {position: args[position].detach().requires_grad_() for position in positions}
            value = compiled(*(inputs.get(position, arg) for position, arg in enumerate(args)), **kwargs)
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise OptionError(f"{fn!r} does not return a scalar tensor", remedy="reduce its result with .sum()")
            gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return gradients[0] if isinstance(argnums, int) else gradients

    return gradient
