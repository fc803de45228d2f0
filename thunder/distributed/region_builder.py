"""Writing regions of traces by hand: operations run on fake tensors and are noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.trace import Namer, Op, Region, Trace, Var, map_vars
from thunder.transforms import delete_dead_values


class RegionBuilder:
    """Builds one region, operation by operation.

    Args:
        name: of the region.
        fake_mode: mode of the fake tensors that are the values of its Vars.
    """

    def __init__(self, name: str, fake_mode: Any) -> None:
        self.name = name
        self._fake_mode = fake_mode
        self._namer = Namer()
        self._inputs: list[Var] = []
        self._ops: list[Op] = []

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Var:
        """An argument of the region, contiguous."""
        with self._fake_mode:
            value = torch.empty(tuple(shape), dtype=dtype, device=device)
        var = Var(self._namer.fresh(name, numbered=False), value)
        self._inputs.append(var)
        return var

    def call(self, target: Callable[..., Any], *args: Any, stem: str = "t", **kwargs: Any) -> Var:
        """Adds `result = target(*args, **kwargs)`."""
        with self._fake_mode:
            value = target(*map_vars(_value, args), **map_vars(_value, kwargs))
        result = Var(self._namer.fresh(stem), value)
        self._ops.append(Op(target, args, kwargs, result))
        return result

    def finish(self, outputs: Sequence[Var]) -> Region:
        """The region, which frees its arguments as it goes."""
        trace = Trace(self.name, self._inputs, self._ops, tuple(outputs))
        return Region(self.name, delete_dead_values(trace, inputs=True), boxed=True)


def _value(var: Var) -> Any:
    return var.value
