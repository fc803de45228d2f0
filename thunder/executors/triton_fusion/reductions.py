"""Which elements a reduction combines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from thunder.executors.triton_fusion.pointwise import REDUCTIONS
from thunder.trace import Op

# Rows up to this long are held in registers; longer ones are read once for each reduction that follows another.
LONGEST_ROW_HELD = 16384


def reduced_axes(op: Op) -> tuple[int, ...]:
    """The axes, in order; all of them where the operator names none."""
    ndim = op.args[0].value.dim()
    assert op.target in REDUCTIONS
    dims = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return tuple(range(ndim))
    if isinstance(dims, int):
        dims = [dims]
    return tuple(sorted({dim % ndim for dim in dims})) if ndim else ()


class Domain(NamedTuple):
    """How a reduction arranges its argument's elements: each row is combined to one.

    `is_across`: rows lie side by side in memory, as in a sum over the first axis.
    """

    rows: int
    columns: int
    is_across: bool


def domain(op: Op) -> Domain:
    """The arrangement of a reduction."""
    shape, axes = op.args[0].value.shape, reduced_axes(op)
    columns = math.prod(shape[axis] for axis in axes)
    rows = math.prod(shape) // max(columns, 1)
    return Domain(rows, columns, rows > 1 and 0 in axes or "chunks" in op.tags)


def rows_of_chunks(op: Op, main: Domain) -> int:
    """Where a sum of columns, in chunks, can be added up by programs that work on `main`'s rows: rows of a chunk.

    0 where it cannot.
    """
    chunks = op.tags.get("chunks")
    if not chunks or main.is_across:
        return 0
    _, rows, columns = op.args[0].value.shape
    return rows if (chunks * rows, columns) == (main.rows, main.columns) else 0


def rows_and_chunks(op: Op) -> tuple[int, ...]:
    """For a sum of columns in chunks, the chunks' arrangement; else empty."""
    return tuple(op.args[0].value.shape) if "chunks" in op.tags else ()


def main_domain(ops: Sequence[Op]) -> Domain | None:
    """The one arrangement in which one kernel can do all of these reductions, or None."""
    domains = {domain(op) for op in ops}
    if len(domains) == 1:
        return next(iter(domains))
    straight = {domain(op) for op in ops if "chunks" not in op.tags}
    if len(straight) != 1:
        return None
    main = next(iter(straight))
    heights = {rows_of_chunks(op, main) for op in ops if domain(op) != main}
    return main if len(heights) == 1 and 0 not in heights and main.columns <= LONGEST_ROW_HELD else None
