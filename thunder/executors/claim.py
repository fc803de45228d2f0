"""Claims: which executor runs which operation.

Executors are asked twice, in order of preference.  First about the operations of the torch-level trace: one that is
taken there is called as the executor implements it (in practice a `torch.library` custom op with its own gradient) and
is not taken apart by lowering.  Then about the ATen operations that the others became: runs of operations that one
fusing executor takes become regions, and what another executor implements gets its implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thunder.executors.executor import Executor
from thunder.trace import Namer, Op, Region, Trace, Var, trace_pass


@trace_pass
def claim_torch_operations(trace: Trace, executors: Sequence[Executor]) -> Trace:
    """Torch-level operations that an executor implements, with that implementation as their target."""

    def claimed(op: Op) -> Op:
        for executor in executors:
            if executor.takes_everything or executor.fuses:
                return op
            if executor.can_execute(op):
                return op.with_target(executor.implementation(op))
        return op

    ops = [claimed(op) for op in trace.ops]
    return trace if all(new is old for new, old in zip(ops, trace.ops)) else trace.replace(ops=ops)


def claim_operations(trace: Trace, executors: Sequence[Executor]) -> list[tuple[Executor, list[Op]]]:
    """Consecutive operations with the executor that takes them: the first whose checker accepts."""
    runs: list[tuple[Executor, list[Op]]] = []
    for op in trace.ops:
        executor = next(e for e in executors if e.can_execute(op) and not e.partitions)
        if runs and runs[-1][0] is executor:
            runs[-1][1].append(op)
        else:
            runs.append((executor, [op]))
    return runs


def fusible_regions(region: Region, executors: Sequence[Executor]) -> dict[Executor, list[Region]]:
    """Puts regions for fusing executors into the trace of `region`; returns them by executor.

    A region whose every operation goes to one fusing executor is itself what that executor gets.
    """
    found: dict[Executor, list[Region]] = {}
    for executor in executors:
        if executor.partitions:
            others = executors[: executors.index(executor)]
            region.trace, regions = executor.partition(region.trace, _takes(executor, others), region.name)
            if regions:
                found[executor] = regions
    runs = claim_operations(region.trace, executors)
    if len(runs) == 1 and runs[0][0].fuses and not found:
        return {runs[0][0]: [region]}
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


def _takes(executor: Executor, before: Sequence[Executor]) -> Callable[[Op], bool]:
    """Whether an operation is this executor's: those before it in the order of preference do not want it."""
    return lambda op: executor.can_execute(op) and not any(other.can_execute(op) for other in before)


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
