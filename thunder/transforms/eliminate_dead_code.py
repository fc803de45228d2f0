"""Drops operations whose results nobody uses."""

from __future__ import annotations

from thunder.lower.operators import is_pure
from thunder.trace import Op, Trace, trace_pass


@trace_pass
def eliminate_dead_code(trace: Trace) -> Trace:
    """Removes pure operations without a used result.

    Kept, used or not: random operations (the numbers that later ones draw depend on them), operations that change
    values in place, and calls of which nothing is known.
    """
    needed = {id(var) for var in trace.output_vars()}
    kept: list[Op] = []
    for op in reversed(trace.ops):
        if is_pure(op) and not any(id(var) in needed for var in op.outputs()):
            continue
        needed.update(id(var) for var in op.inputs())
        kept.append(op)
    return trace if len(kept) == len(trace.ops) else trace.replace(ops=kept[::-1])
