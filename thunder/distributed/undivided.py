"""Programs that cannot be lowered, on divided parameters: all are gathered before, all gradients reduced after.

Nothing overlaps here; the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder import _torch_compat


class Boundary:
    """Makes whole parameters of parts, and parts of averaged gradients of whole ones."""

    def whole(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The parameters as the program sees them."""
        raise NotImplementedError

    def parts(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The gradients of the parameters for those of the wholes."""
        raise NotImplementedError


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boundary: Boundary, *parameters: torch.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.boundary = boundary
        with _torch_compat.below_autograd():
            wholes = boundary.whole(parameters)
        return tuple(whole.view_as(whole) if whole is p else whole for whole, p in zip(wholes, parameters))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        with torch.no_grad(), _torch_compat.below_autograd():
            return (None, *ctx.boundary.parts(gradients))


def run_on_whole_parameters(
    run: Callable[..., tuple[Any, ...]], positions: Sequence[int], boundary: Boundary
) -> Callable[..., tuple[Any, ...]]:
    """`run` with the inputs at `positions` made whole first."""
    if not positions:
        return run

    def run_whole(*inputs: Any) -> tuple[Any, ...]:
        given = list(inputs)
        wholes = _Whole.apply(boundary, *(given[position] for position in positions))
        for position, whole in zip(positions, wholes):
            given[position] = whole
        return run(*given)

    return run_whole
