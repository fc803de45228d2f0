"""Grad mode and autocast: the thread's state that decides what a torch call does.

A torch-level trace changes it with statements (`torch._C._set_grad_enabled(False)`, entering and leaving autocast).
Lowering executes them while it records, so a functional trace has none: what they decided is in its operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from thunder import _torch_compat
from thunder.trace import Op


@dataclass(frozen=True)
class AmbientState:
    """Grad mode, and for each device type whether autocast is on and to which dtype."""

    grad_enabled: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]

    def apply(self) -> None:
        """Makes this the thread's state."""
        torch.set_grad_enabled(self.grad_enabled)
        for device_type, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device_type, enabled)
            torch.set_autocast_dtype(device_type, dtype)

    def without_autocast(self) -> AmbientState:
        return replace(self, autocast=tuple((device, False, dtype) for device, _, dtype in self.autocast))


def current_state() -> AmbientState:
    """The thread's state now."""
    return AmbientState(
        torch.is_grad_enabled(),
        tuple(
            (device_type, torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type))
            for device_type in _torch_compat.autocast_device_types()
        ),
    )


@contextmanager
def ambient_state(state: AmbientState) -> Iterator[None]:
    """Within the block the thread has this state, and autocast keeps no copies of the weights it has cast.

    The copies would be fake tensors, met again after the block.
    """
    before, cache_before = current_state(), torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    state.apply()
    try:
        yield
    finally:
        before.apply()
        torch.set_autocast_cache_enabled(cache_before)


def is_state_statement(op: Op) -> bool:
    """Whether the operation only changes the thread's state."""
    enters = _torch_compat.context_statements()
    return (
        op.target is _torch_compat.set_grad_enabled_statement() or op.target in enters or op.target in enters.values()
    )


def states_after(ops: Sequence[Op], initial: AmbientState) -> dict[int, AmbientState]:
    """The state after each state statement, by `id(op)`; the statements are executed to find out."""
    enters = _torch_compat.context_statements()
    states: dict[int, AmbientState] = {}
    entered: dict[int, tuple[Any, Callable[[Any], Any]]] = {}
    with ambient_state(initial):
        for op in ops:
            if not is_state_statement(op):
                continue
            if op.target in enters:
                entered[id(op.result)] = (op.target(*op.args, **op.kwargs), enters[op.target])
            elif op.target in enters.values():
                context, leave = entered.pop(id(op.args[0]))
                leave(context)
            else:
                op.target(*op.args, **op.kwargs)
            states[id(op)] = current_state()
        for context, leave in reversed(entered.values()):  # entered and never left: the trace ends within
            leave(context)
    return states
