"""Splits reductions that too few programs would do.

Input: a trace.  Output: the same with `sum` over many elements and few results as a `sum` of partial sums, which many
programs compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from thunder.executors.triton_fusion.pointwise import REDUCTIONS, compute_dtype
from thunder.executors.triton_fusion.reductions import LONGEST_ROW_HELD, domain, reduced_axes
from thunder.executors.triton_fusion.schedule import chunk_programs, enough_programs
from thunder.lower.operators import aten
from thunder.trace import Namer, Op, Trace, Var

# Rows of a block of a column reduction, and the fewest elements that a program should add up.
_ROWS_OF_A_BLOCK = 64
_FEWEST_COLUMNS = 64
_FEWEST_OF_A_ROW = 4096

_SPLIT = {
    aten.sum.default: aten.sum.dim_IntList,
    aten.sum.dim_IntList: aten.sum.dim_IntList,
    aten.mean.default: aten.mean.dim,
    aten.mean.dim: aten.mean.dim,
    aten.amax.default: aten.amax.default,
    aten.amin.default: aten.amin.default,
}


def split_reductions(trace: Trace, takes: Callable[[Op], bool]) -> Trace:
    """The trace with large reductions in two steps."""
    namer = Namer({var.name for var in trace.variables()})
    ops: list[Op] = []
    rows = {domain(op)[:2] for op in trace.ops if op.target in REDUCTIONS and takes(op) and not domain(op).is_across}
    for op in trace.ops:
        parts = _parts(op, rows) if op.target in _SPLIT and takes(op) else 1
        ops += [op] if parts == 1 else _in_two_steps(op, parts, namer)
    return trace if len(ops) == len(trace.ops) else trace.replace(ops=ops)


def _parts(op: Op, straight: set[tuple[int, int]]) -> int:
    """In how many parts the elements of a reduction are added up.

    `straight`: rows and columns of the reductions along rows: a sum of columns beside one of these is done by its
    programs, each for some of the rows.
    """
    shape, axes = tuple(op.args[0].value.shape), reduced_axes(op)
    columns = math.prod(shape[axis] for axis in axes)
    rows = math.prod(shape) // columns
    if axes == tuple(range(len(shape) - len(axes), len(shape))):
        if columns < 4 * _FEWEST_OF_A_ROW or rows >= enough_programs() // 4:
            return 1
        return _divisor(columns, min(enough_programs() // rows, columns // _FEWEST_OF_A_ROW))
    if axes == tuple(range(len(axes))):
        programs = -(-rows // _ROWS_OF_A_BLOCK)
        is_sum = op.target in (aten.sum.default, aten.sum.dim_IntList)
        if is_sum and (columns, rows) in straight and rows <= LONGEST_ROW_HELD and columns >= 2 * enough_programs():
            return _divisor(columns, chunk_programs(rows))
        if columns < 4 * _FEWEST_COLUMNS or programs >= enough_programs():
            return 1
        return _divisor(columns, min(4 * enough_programs() // programs, columns // _FEWEST_COLUMNS))
    return 1


def _divisor(number: int, wanted: int) -> int:
    """The largest divisor of `number` that is at most `wanted`."""
    for candidate in range(max(wanted, 1), 0, -1):
        if number % candidate == 0:
            return candidate
    return 1


def _in_two_steps(op: Op, parts: int, namer: Namer) -> list[Op]:
    source, axes = op.args[0], reduced_axes(op)
    assert op.target in REDUCTIONS
    value, result = source.value, next(op.outputs())
    shape = tuple(value.shape)
    columns = math.prod(shape[axis] for axis in axes)
    is_last = axes == tuple(range(len(shape) - len(axes), len(shape)))
    kept = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    target = _SPLIT[op.target]
    dtype = compute_dtype(result.value.dtype)
    if is_last:
        view_shape, inner, partial_shape = (*kept, parts, columns // parts), len(kept) + 1, (*kept, parts)
    else:
        view_shape, inner, partial_shape = (parts, columns // parts, *kept), 1, (parts, *kept)
    view = Var(namer.fresh("parts"), value.new_empty(view_shape))
    partial = Var(namer.fresh("partial"), value.new_empty(partial_shape, dtype=dtype))
    shaped = partial
    ops = [
        _like(op, aten.reshape.default, (source, list(view_shape)), view),
        _like(op, target, (view, [inner], False), partial, dtype),
    ]
    if not is_last and len(kept) == 1:
        ops[-1].tags["chunks"] = parts
    outer = 0 if not is_last else len(kept)
    if result.value.dim() > len(kept):  # the reduced axes stay, with one element each
        ones = (1,) * len(axes)
        keepdim_shape = (*kept, *ones, parts) if is_last else (parts, *ones, *kept)
        shaped = Var(namer.fresh("partial"), partial.value.new_empty(keepdim_shape))
        ops.append(_like(op, aten.reshape.default, (partial, list(keepdim_shape)), shaped))
        outer = len(shape) if is_last else 0
    ops.append(_like(op, target, (shaped, [outer], False), result, result.value.dtype))
    ops[-1].tags["second_step"] = True
    return ops


def _like(op: Op, target: object, args: tuple[object, ...], result: Var, dtype: object = None) -> Op:
    kwargs = {"dtype": dtype} if dtype is not None and target in (aten.sum.dim_IntList, aten.mean.dim) else {}
    return Op(target, args, kwargs, result, op.location, op.scope, tags=dict(op.tags))
