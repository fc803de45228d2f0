"""Frees values as soon as they are dead.

A trace that is run as a Python function keeps every intermediate value until it returns, where the
user's own program dropped most of them when its functions returned.  This pass writes `del` after
the last use of each value, so that a trace needs no more memory than the program it was acquired
from.
"""

from __future__ import annotations

from thunder.trace import Op, Trace, Var, delete, trace_pass
from thunder.trace.var import iterate_vars


@trace_pass
def delete_dead_values(trace: Trace, *, inputs: bool = False) -> Trace:
    """Inserts `del` statements; `inputs=True` also drops the trace's own inputs after their last use.

    Dropping inputs pays where the caller has given up its own references, as for the values that a backward
    trace receives.  Values that are no tensors (numbers, contexts) are left alone.
    """
    if any(op.target is delete for op in trace.ops):
        trace = trace.replace(ops=[op for op in trace.ops if op.target is not delete])
    needed: set[int] = {id(var) for var in iterate_vars(trace.output)}
    if not inputs:
        needed.update(id(var) for var in trace.inputs)
    reversed_ops: list[Op] = []
    for op in reversed(trace.ops):
        dead: list[Var] = []
        for var in (*op.outputs(), *op.inputs()):
            if id(var) not in needed:
                needed.add(id(var))
                if var.is_tensor:
                    dead.append(var)
        if dead:
            reversed_ops.append(Op(delete, tuple(dead), scope=op.scope))
        reversed_ops.append(op)
    return trace.replace(ops=reversed_ops[::-1])
