"""Zeros in place of shadows: the same call, made for real, tells what only real kernels know.

Input: the arguments of a call on shadows.  Output: the same arguments with tensors of zeros on the real device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from thunder.acquire.shadows import is_leaf

LARGEST = 1 << 24
"""Elements of all tensors of a call; larger ones are not made for the sake of an error message or a stride."""


class RealArguments:
    """Makes the tensors.

    Args:
        devices: the device of each shadow, by its id.

    Attributes:
        reals: the tensor for each shadow, by the shadow's id.
    """

    def __init__(self, devices: Mapping[int, torch.device]) -> None:
        self.devices = devices
        self.reals: dict[int, torch.Tensor] = {}
        self._total = 0

    def of(self, value: Any) -> Any:
        """`value` with tensors for the shadows in it.

        Raises:
            OverflowError: they are too large, not on the CPU, or of a size that nobody knows.
        """
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            if not value.node.has_hint():
                raise OverflowError
            return value.node.hint
        if isinstance(value, torch.Tensor) and id(value) in self.devices:
            if id(value) not in self.reals:
                self.reals[id(value)] = self._zeros(value)
            return self.reals[id(value)]
        if type(value) in (tuple, list):
            return type(value)(map(self.of, value))
        if type(value) is dict:
            return {key: self.of(item) for key, item in value.items()}
        return value

    def _zeros(self, shadow: torch.Tensor) -> torch.Tensor:
        device = self.devices[id(shadow)]
        shape, stride = self.of(tuple(shadow.shape)), self.of(tuple(shadow.stride()))
        self._total += torch.Size(shape).numel()
        if self._total > LARGEST or device.type != "cpu":
            raise OverflowError
        real = torch.empty_strided(shape, stride, dtype=shadow.dtype, device=device).zero_()
        if shadow.requires_grad:
            real.requires_grad_(True)
            real = real if is_leaf(shadow) else real.clone()
        return real
