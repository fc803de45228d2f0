"""A step of a module as two traces, taken on the meta device.

Input: a module and its arguments on the meta device.  Output: the forward and the backward trace as thunder would run
them on a GPU: kernels of the library put in, differentiated, fused.  Invariants: no data exists, nothing is compiled,
no GPU is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thunder.acquire import acquire
from thunder.errors import PlanningError
from thunder.executors import compile_computation, resolve_executors
from thunder.kernels.registry import device_stand_in
from thunder.planning.executors import FusionStandIn, OperatorStandIns
from thunder.trace import Trace, Var


@dataclass(frozen=True)
class TracedStep:
    """One forward pass and, when training, one backward pass.

    Attributes:
        forward: as it would run; takes parameters and data, returns results and what backward needs.
        backward: as it would run, or None.
        parameters: Vars of the forward trace that are parameters.
        result_count: how many of the forward trace's outputs are the module's own results.
    """

    forward: Trace
    backward: Trace | None
    parameters: tuple[Var, ...]
    result_count: int


def trace_step(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool
) -> TracedStep:
    """Traces a step; raises `PlanningError` for programs that thunder would run operation by operation."""
    fusion = FusionStandIn()
    reason = fusion.unavailable_reason()
    if reason is not None:
        raise PlanningError(f"fusions cannot be counted: {reason}", remedy="pip install triton")
    with torch.set_grad_enabled(training):
        program = acquire(module, tuple(args), dict(kwargs))
        with device_stand_in("meta", "cuda"):
            computation = compile_computation(
                program.computation,
                executors=resolve_executors([OperatorStandIns(), fusion]),
                grad_enabled=training,
            )
    if not computation.is_lowered:
        raise PlanningError(
            f"{type(module).__name__} cannot be planned: {'; '.join(computation.notes)}",
            remedy="the cost model reads lowered programs; thunder.compile_stats(model).notes says the same of a call",
        )
    forward = computation.forward_traces[-1]
    backward = computation.backward_traces[-1] if training and computation.backward_traces else None
    if training and (backward is None or all(gradient is None for gradient in backward.output)):
        raise PlanningError(
            f"{type(module).__name__} has no gradients on the meta device",
            remedy="plan it with training=False, or check that its result depends on its parameters",
        )
    parameters = tuple(
        var for var in forward.inputs if isinstance(var.value, torch.Tensor) and var.value.requires_grad
    )
    return TracedStep(forward, backward, parameters, program.output_count)
