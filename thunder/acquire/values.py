"""Values of small integer arguments that the program looks at.

Some programs decide on the values of a small tensor that they are given: the grid of an image, lengths, a mask of
special tokens.  Such values are computed for real from the arguments, become constants of the program, and the
prologue guards the arguments' values: other values mean another program.

Input: a shadow.  Output: its real value, or None when it depends on anything that is large, floating or random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.acquire.guards import Prologue
from thunder.acquire.sources import Source
from thunder.trace import Op, Var, iterate_vars, map_vars

LARGEST = 4096
"""Elements of the largest argument whose values are guarded."""
_RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal", "uniform", "exponential", "empty")


class Values:
    """Computes and guards values.

    Args:
        prologue: receives the guards.
        input_of: (source, real tensor) of an input's shadow, or None.
    """

    def __init__(
        self, prologue: Prologue, input_of: Callable[[torch.Tensor], tuple[Source, torch.Tensor] | None]
    ) -> None:
        self.prologue = prologue
        self.input_of = input_of
        self._guarded: set[int] = set()

    def of(
        self, shadow: torch.Tensor, variables: dict[int, Var], kept: Sequence[Any], ops: Sequence[Op]
    ) -> torch.Tensor | None:
        """The value of `shadow`; guards the arguments that it was computed from.

        Args:
            variables: the Var of each shadow, by its id.
            kept: the shadows.
            ops: what has been recorded so far.
        """
        shadows = {id(variables[id(item)]): item for item in kept if id(item) in variables}
        producers = {id(var): op for op in ops for var in iterate_vars(op.result) if var not in op.inputs()}
        used: list[tuple[Source, torch.Tensor]] = []
        known: dict[int, torch.Tensor | None] = {}

        def evaluate(var: Var) -> torch.Tensor | None:
            if id(var) not in known:
                known[id(var)] = None  # a cycle cannot happen; a failure is remembered
                known[id(var)] = compute(var)
            return known[id(var)]

        def compute(var: Var) -> torch.Tensor | None:
            own = shadows.get(id(var))
            if own is None or own._version > 0:
                return None
            found = self.input_of(own)
            if found is not None:
                source, real = found
                if real.is_floating_point() or real.is_complex() or real.numel() > LARGEST or real.is_meta:
                    return None
                used.append((source, real))
                return real.detach().clone()
            op = producers.get(id(var))
            if op is None or any(word in op.name for word in _RANDOM):
                return None
            if any(evaluate(argument) is None for argument in op.inputs()):
                return None
            results = op.target(*map_vars(evaluate, op.args), **map_vars(evaluate, op.kwargs))
            return _matching(op.result, results, var)

        variable = variables.get(id(shadow))
        if variable is None:
            return None
        with torch._C.DisableTorchFunction(), torch.no_grad():
            value = evaluate(variable)
        if value is None:
            return None
        for source, real in used:
            self._guard(source, real)
        return value

    def _guard(self, source: Source, real: torch.Tensor) -> None:
        if id(real) in self._guarded:
            return
        self._guarded.add(id(real))
        name, bind = self.prologue.expression(source), self.prologue.bind
        expected = real.detach().clone()
        self.prologue.check(
            f"{bind(holds_values)}({name}, {bind(expected)})", lambda: f"values of {source.describe()} are unchanged"
        )


def holds_values(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors are alike in dtype, shape, device and every value."""
    if tensor.dtype is not expected.dtype or tensor.device != expected.device:
        return False
    return torch.equal(tensor, expected)


def _matching(structure: Any, results: Any, var: Var) -> Any:
    """The part of `results` that stands where `var` stands in `structure`."""
    if structure is var:
        return results if isinstance(results, torch.Tensor) else None
    if isinstance(structure, (tuple, list)):
        for part, result in zip(structure, results):
            found = _matching(part, result, var)
            if found is not None:
                return found
    return None
