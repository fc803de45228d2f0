"""Claims: which executor runs which operation of a region.

Input: a functional trace and executors in order of preference.  Output: the trace with every operation claimed: runs
of operations that one fusing executor takes become regions of their own, operations that another executor
implements get its implementation, and the rest stays as it is, for eager PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

from thunder.executors.executor import Executor
from thunder.trace import Namer, Op, Region, Trace, Var


def claim_operations(trace: Trace, executors: Sequence[Executor]) -> list[tuple[Executor, list[Op]]]:
    """Consecutive operations with the executor that takes them: the first whose checker accepts."""
    runs: list[tuple[Executor, list[Op]]] = []
    for op in trace.ops:
        executor = next(executor for executor in executors if executor.can_execute(op))
        if runs and runs[-1][0] is executor:
            runs[-1][1].append(op)
        else:
            runs.append((executor, [op]))
    return runs


def fusible_regions(region: Region, executors: Sequence[Executor]) -> dict[Executor, list[Region]]:
    """Puts regions for fusing executors into the trace of `region`; returns them by executor.

    A region whose every operation goes to one fusing executor is itself what that executor gets.
    """
    runs = claim_operations(region.trace, executors)
    if len(runs) == 1 and runs[0][0].fuses:
        return {runs[0][0]: [region]}
    found: dict[Executor, list[Region]] = {}
    ops: list[Op] = []
    namer = Namer()
    for position, (executor, run) in enumerate(runs):
        if executor.fuses and len(run) > 1:
            inner = _extract(f"{region.name}_{namer.fresh(executor.name)}", run, runs[position + 1 :], region.trace)
            found.setdefault(executor, []).append(inner.target)
            ops.append(inner)
        else:
            ops += [op if executor.fuses else op.with_target(executor.implementation(op)) for op in run]
    region.trace = region.trace.replace(ops=ops)
    return found


def _extract(name: str, run: list[Op], later: Sequence[tuple[Executor, list[Op]]], trace: Trace) -> Op:
    """A call of a new region that computes `run`."""
    defined = {id(var): var for op in run for var in op.outputs()}
    used_later = {id(var) for _, ops in later for op in ops for var in op.inputs()}
    used_later |= {id(var) for var in trace.output_vars()}
    inputs: dict[int, Var] = {}
    for op in run:
        for var in op.inputs():
            if id(var) not in defined:
                inputs.setdefault(id(var), var)
    outputs = tuple(var for key, var in defined.items() if key in used_later)
    region = Region(name, Trace(name, list(inputs.values()), list(run), outputs))
    return Op(region, tuple(inputs.values()), {}, outputs, run[0].location, run[0].scope)
