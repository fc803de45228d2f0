"""User transforms: any callable `Trace -> Trace`, applied before the compiler's own passes.

`level` says which traces a transform sees: `"torch"` (the default) the acquired program of public
torch calls, once; `"aten"` each functional forward and backward trace of a distinct block after
lowering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from thunder.errors import OptionError
from thunder.trace import Trace, run_pass

LEVELS = ("torch", "aten")


class Transform:
    """Base class of transforms that have a state or a level; a plain function `Trace -> Trace` will do too.

    Example:
        >>> class UseGelu(Transform):
        ...     def __call__(self, trace):
        ...         def rewritten(op):
        ...             is_relu = op.target is torch.nn.functional.relu
        ...             return op.with_target(torch.nn.functional.gelu) if is_relu else op
        ...
        ...         return trace.replace(ops=[rewritten(op) for op in trace.ops])
    """

    level: Literal["torch", "aten"] = "torch"

    def __call__(self, trace: Trace) -> Trace:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(self, trace) -> Trace")


def level_of(transform: Callable[[Trace], Trace]) -> str:
    """The level of a transform, checked."""
    level = getattr(transform, "level", "torch")
    if level not in LEVELS:
        raise OptionError(
            f"the transform {_name_of(transform)} has level {level!r}",
            remedy=f"known levels: {', '.join(LEVELS)}",
        )
    return level


def apply_transforms(trace: Trace, transforms: Sequence[Callable[[Trace], Trace]], level: str) -> list[Trace]:
    """Runs the transforms of one level in order; returns the trace after each one that changed it."""
    stages: list[Trace] = []
    for transform in transforms:
        if not callable(transform):
            raise OptionError(f"{transform!r} is no transform", remedy="pass a callable Trace -> Trace")
        if level_of(transform) != level:
            continue
        result = run_pass(transform, trace)
        if result is not trace:
            stages.append(result)
            trace = result
    return stages


def _name_of(transform: object) -> str:
    return getattr(transform, "__name__", type(transform).__name__)
