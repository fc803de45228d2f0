"""Frees values as soon as they are dead.

A trace that is run as a Python function keeps every intermediate value until it returns, where the user's own program
dropped most of them when its functions returned.  This pass writes `del` after the last use of each value, so that a
trace needs no more memory than the program it was acquired from.
"""

from __future__ import annotations

from thunder import _torch_compat
from thunder.trace import Op, Trace, Var, delete, trace_pass


@trace_pass
def delete_dead_values(trace: Trace, *, inputs: bool = False) -> Trace:
    """Inserts `del` statements; `inputs=True` also drops the trace's own inputs after their last use.

    Dropping inputs pays where the caller has given up its own references, as for the values that a backward trace
    receives.  Contexts (of autocast, of inference mode) are left alone: some end when they are dropped.
    """
    contexts = _torch_compat.context_statements()
    kept = {id(var) for var in trace.output_vars()}
    kept |= {id(var) for op in trace.ops if op.target in contexts for var in op.outputs()}
    if not inputs:
        kept |= {id(var) for var in trace.inputs}
    reversed_ops: list[Op] = []
    for op in reversed([op for op in trace.ops if op.target is not delete]):
        dead: dict[int, Var] = {id(var): var for var in (*op.outputs(), *op.inputs()) if id(var) not in kept}
        kept.update(dead)
        if dead:
            reversed_ops.append(Op(delete, tuple(dead.values()), scope=op.scope))
        reversed_ops.append(op)
    unused = tuple(var for var in trace.inputs if id(var) not in kept)
    if unused:
        reversed_ops.append(Op(delete, unused))
    return trace.replace(ops=reversed_ops[::-1])
