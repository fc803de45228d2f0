"""Writing into inputs where they are.

Lowering makes every program functional: what it changes in place is computed as a new value, and copied to the input
at the end.  For a key-value cache into which one token is written, that copies the cache twice.  Where an input is
used by nothing but the operation that changes a part of it, that operation may as well write into the input.

Input: the forward trace of a program without gradients, before its operations are claimed.  Output: the same, with
such operations in place and the copies at its end left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from thunder import _torch_compat
from thunder.lower.operators import aten
from thunder.trace import Op, Region, Trace, Var, trace_pass


def index_copy_in_place(tensor: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return tensor.index_copy_(dim, index, source)


def index_put_in_place(
    tensor: torch.Tensor, indices: Sequence[torch.Tensor | None], values: torch.Tensor, accumulate: bool = False
) -> torch.Tensor:
    result: torch.Tensor = torch.ops.aten.index_put_(tensor, indices, values, accumulate)
    return result


def slice_scatter_in_place(
    tensor: torch.Tensor,
    source: torch.Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> torch.Tensor:
    torch.ops.aten.slice(tensor, dim, start, end, step).copy_(source)
    return tensor


def select_scatter_in_place(tensor: torch.Tensor, source: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    tensor.select(dim, index).copy_(source)
    return tensor


def call_in_place(operator: Any, *, _all_bases: Sequence[torch.Tensor], **arguments: Any) -> tuple[Any, ...]:
    """A custom operator that changes arguments, as lowering records it: its results, then the changed tensors."""
    changed = {
        name[1 : -len(_BASE_INDEX)]: None if index is None else _all_bases[index]
        for name, index in arguments.items()
        if name.endswith(_BASE_INDEX)
    }
    plain = {name: value for name, value in arguments.items() if not name.endswith(_BASE_INDEX)}
    results = operator(**plain, **changed)
    return (*(results if isinstance(results, tuple) else (results,)), *_all_bases)


_BASE_INDEX = "_base_index"
_FORMS: dict[Any, Callable[..., Any]] = {
    aten.index_copy.default: index_copy_in_place,
    aten.index_put.default: index_put_in_place,
    aten.slice_scatter.default: slice_scatter_in_place,
    aten.select_scatter.default: select_scatter_in_place,
}


@trace_pass
def write_in_place(trace: Trace) -> Trace:
    """Rewrites the operations of the trace's regions, which become the trace's own for good."""
    uses = _uses(trace)
    copies = {id(op.args[0]): op for op in trace.ops if op.target is aten.copy_.default}
    inputs = {id(var) for var in trace.inputs}
    wanted: dict[int, list[set[tuple[int, int]]]] = {}
    regions: dict[int, Region] = {}
    for op in trace.ops:
        if isinstance(op.target, Region):
            regions[id(op.target)] = op.target
            wanted.setdefault(id(op.target), []).append(_pairs(op, copies, inputs, uses))
    done: dict[int, set[tuple[int, int]]] = {}
    for key, pairs in wanted.items():
        region = regions[key]
        region.trace, done[key] = _rewritten(region.trace, set.intersection(*pairs))
    dropped = set()
    for op in trace.ops:
        if isinstance(op.target, Region):
            dropped |= {id(copies[id(op.args[position])]) for position, _ in done[id(op.target)]}
    return trace.replace(ops=[op for op in trace.ops if id(op) not in dropped]) if dropped else trace


def _uses(trace: Trace) -> dict[int, int]:
    """How often each Var is an argument, or a part of the output."""
    counts: dict[int, int] = {}
    for var in [*(var for op in trace.ops for var in op.inputs()), *trace.output_vars()]:
        counts[id(var)] = counts.get(id(var), 0) + 1
    return counts


def _pairs(op: Op, copies: dict[int, Op], inputs: set[int], uses: dict[int, int]) -> set[tuple[int, int]]:
    """(position of an argument, number of a result) where the result is the argument's new value at the end.

    Nothing else uses the argument, which is an input of the program, and the result is no output.
    """
    results = {id(var): number for number, var in enumerate(op.outputs())}
    found = set()
    for position, var in enumerate(op.args):
        copy = copies.get(id(var))
        if copy is None or id(var) not in inputs or uses[id(var)] != 2:  # here, and where it is copied to
            continue
        number = results.get(id(copy.args[1]))
        if number is not None and uses[id(copy.args[1])] == 1:
            found.add((position, number))
    return found


def _rewritten(trace: Trace, pairs: set[tuple[int, int]]) -> tuple[Trace, set[tuple[int, int]]]:
    """The trace of a region with operations in place, and the pairs for which that was possible."""
    uses = _uses(trace)
    makers = {id(var): op for op in trace.ops for var in op.outputs()}
    outputs = list(trace.output)
    replaced: dict[int, Op] = {}
    done: set[tuple[int, int]] = set()
    # An operation that writes into several tensors needs the permission for each.
    allowed = {(id(trace.inputs[position]), id(outputs[number])) for position, number in pairs}
    for position, number in pairs:
        chain = _chain(trace.inputs[position], outputs[number], makers, uses, allowed)
        for op, form in chain:
            replaced[id(op)] = form
        if chain:
            done.add((position, number))
    if not replaced:
        return trace, set()
    return trace.replace(ops=[replaced.get(id(op), op) for op in trace.ops]), done


def _chain(
    start: Var, end: Any, makers: dict[int, Op], uses: dict[int, int], allowed: set[tuple[int, int]]
) -> list[tuple[Op, Op]]:
    """The operations that turn `start` into `end` by writing into it, with their forms in place; empty if others do."""
    chain: list[tuple[Op, Op]] = []
    current = end
    while isinstance(current, Var) and current is not start:
        op = makers.get(id(current))
        if op is None:
            return []
        written = _written(op)
        before = written.get(id(current))
        if before is None or uses[id(before)] != 1:
            return []
        if len(written) > 1 and not {(id(var), new) for new, var in written.items()} <= allowed:
            return []
        chain.append((op, _in_place(op)))
        current = before
    return chain if current is start else []


def _written(op: Op) -> dict[int, Var]:
    """For results (by id) that are an argument with a part overwritten, that argument."""
    if op.target in _FORMS:
        return {id(op.result): op.args[0]} if isinstance(op.args[0], Var) else {}
    if op.target is not _torch_compat.functionalized_call() or "_all_bases" not in op.kwargs:
        return {}
    names = {argument.name for argument in op.args[0]._schema.arguments}
    known = names | {f"_{name}{_BASE_INDEX}" for name in names} | {"_all_bases"}
    if not set(op.kwargs) <= known:
        return {}  # what it writes to is a view of the tensor
    bases = op.kwargs["_all_bases"]
    results = op.result[len(op.result) - len(bases) :]
    return {id(result): base for result, base in zip(results, bases) if isinstance(base, Var)}


def _in_place(op: Op) -> Op:
    return replace(op, target=_FORMS.get(op.target, call_in_place))
