"""From an acquired computation to a callable.

Input: a torch-level trace, executors in order of preference, transforms.  Output: a
`CompiledComputation` whose `run(*inputs)` behaves exactly as executing the torch-level trace
eagerly would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from thunder.executors.executor import Executor
from thunder.executors.torch_program import run_torch_program
from thunder.trace import Trace, verify
from thunder.transforms import apply_transforms, delete_dead_values


class CompiledComputation:
    """A computation that can be called, with every trace on the way to it.

    Attributes:
        run: called with the computation's inputs, returns the tuple of its outputs.
        forward_traces: each stage, first to last.
        backward_traces: each stage of the backward program; empty when nothing requires grad.
        notes: decisions that were taken, one sentence each.
    """

    def __init__(
        self,
        run: Callable[..., tuple[Any, ...]],
        forward_traces: list[Trace],
        backward_traces: list[Trace],
        notes: list[str],
    ) -> None:
        self.run = run
        self.forward_traces = forward_traces
        self.backward_traces = backward_traces
        self.notes = notes


def compile_computation(
    computation: Trace,
    *,
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]] = (),
    grad_enabled: bool,
) -> CompiledComputation:
    """Compiles a torch-level trace.

    Args:
        computation: what acquisition recorded; its inputs' values are fake tensors.
        executors: in order of preference; `eager` alone runs the trace as it stands.
        transforms: applied in order, at the level that each one asks for.
        grad_enabled: the grad mode under which `run` will be called.
    """
    verify(computation, "acquisition")
    stages = [computation, *apply_transforms(computation, transforms, "torch")]
    notes: list[str] = []
    final = delete_dead_values(stages[-1])
    stages.append(final)
    return CompiledComputation(run_torch_program(final), stages, [], notes)
