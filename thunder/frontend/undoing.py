"""Computations that change something and fail: what they changed is put back, so that plain Python can make the call.

A call that raises is made again in plain Python, which does all that the program does before it raises.  That needs
inputs and the state of PyTorch's random numbers as they were.  What a kernel refuses is refused for what the guards
establish (dtypes, devices, sizes), hence at every call of a program: until a first call has succeeded, both are
copied.  Later calls only notice whether an input has been changed when the computation raises; then the error is
raised as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.trace import Trace

_RANDOM = (
    "rand", "dropout", "bernoulli", "multinomial", "normal", "uniform", "exponential", "attention", "rrelu", "poisson",
    "geometric_", "cauchy", "checkpoint",
)  # fmt: skip
LARGEST = 1 << 28
"""Bytes that are copied at most."""


class InputsChangedError(Exception):
    """The computation raised `error` when it had changed inputs already."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class UndoingRun:
    """Runs a computation that changes inputs or draws random numbers.

    Args:
        run: the compiled computation.
        changed: positions of the inputs that it changes.
    """

    def __init__(self, run: Callable[..., tuple[Any, ...]], changed: Sequence[int]) -> None:
        self._run = run
        self._changed = tuple(changed)
        self._has_succeeded = False

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        inputs = [arguments[index] for index in self._changed]
        before = [None if tensor.is_inference() else tensor._version for tensor in inputs]
        copies, random = None, None
        if not self._has_succeeded:
            copies, random = _copied(inputs), torch.get_rng_state()
        try:
            results = self._run(*arguments)
        except Exception as error:  # whatever the kernels raise
            if random is not None:
                torch.set_rng_state(random)
            for index, (tensor, version) in enumerate(zip(inputs, before)):
                if version is not None and tensor._version == version:
                    continue
                if copies is None or not _put_back(tensor, copies[index]):
                    raise InputsChangedError(error) from error
            raise
        self._has_succeeded = True
        return results


def may_draw_random_numbers(trace: Trace) -> bool:
    """Whether a name in the program suggests that it draws random numbers; without need a call costs little more."""
    return any(word in op.name for op in trace.ops for word in _RANDOM)


def _copied(inputs: list[torch.Tensor]) -> list[torch.Tensor] | None:
    """Copies of the inputs, or None when they are too large."""
    if sum(tensor.numel() * tensor.element_size() for tensor in inputs) > LARGEST:
        return None
    with torch.no_grad():
        return [tensor.detach().clone() for tensor in inputs]


def _put_back(tensor: torch.Tensor, copy: torch.Tensor) -> bool:
    """Whether the tensor has its values again; one with another shape is beyond that."""
    if tensor.is_inference() or tensor.shape != copy.shape or tensor.dtype is not copy.dtype:
        return False
    with torch.no_grad():
        tensor.data.copy_(copy)
    return True
