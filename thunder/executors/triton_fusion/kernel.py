"""What one kernel computes: values, element by element, and where they are written.

A kernel's elements are arranged in rows (`x`) and columns (`r`): a kernel without reductions has one column, and a
reduction combines the columns of each row.  `Node`s form a graph in which each depends on the row, the column, both or
neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thunder.executors.triton_fusion.index import Atom, Axis, Bounded, Index, Loaded, Quotient, Remainder
from thunder.executors.triton_fusion.pointwise import Reduction
from thunder.trace import Op, Var


class NotFusible(Exception):
    """These operations do not make one kernel."""


@dataclass(eq=False)
class Node:
    """A value at one element.

    Attributes:
        kind: "load", "compute", "reduce", "index", "fill" (a tensor of one number) or "constant" (a number).
        dtype: in which the kernel holds it.
        args: what it is computed from; for a load, conditions under which it may be read.
        text: for "compute", the expression; for numbers, how they are written.
        number: for "fill" and "constant".
        index: for "load", the element of the buffer; for "index", the value.
        buffer: for "load", what is read.
        reduction: for "reduce", how columns are combined.
        op: the operation that it stands for.
        by_row, by_column: whether it depends on the row, on the column.
        depth: how many reductions come one after the other on the way to it.
    """

    kind: str
    dtype: torch.dtype
    args: tuple[Node, ...] = ()
    text: str = ""
    number: Any = None
    index: Index | None = None
    buffer: Var | None = None
    reduction: Reduction | None = None
    op: Op | None = None
    by_row: bool = False
    by_column: bool = False
    depth: int = 0

    def __post_init__(self) -> None:
        parents: list[Node] = list(self.args)
        bases = {"x": False, "r": False}
        if self.index is not None:
            for atom in self.index.atoms():
                if isinstance(atom, Axis):
                    bases[atom.base] = True
                elif isinstance(atom, Loaded):
                    parents.append(atom.node)
        self.parents = tuple(parents)
        self.by_row = bases["x"] or any(parent.by_row for parent in parents)
        self.by_column = bases["r"] or any(parent.by_column for parent in parents)
        self.depth = max((parent.depth for parent in parents), default=0)
        if self.kind == "reduce":
            self.by_row, self.by_column = True, False
            self.depth += 1


@dataclass(eq=False)
class Store:
    """A value that is written to memory; `index` is the element of the (dense or strided) output.

    `is_total`: what is written is the sum over the rows of a program, in the program's row of the output.
    """

    var: Var
    node: Node
    index: Index
    op: Op | None
    is_total: bool = False
    by_column: bool = field(init=False)

    def __post_init__(self) -> None:
        axes = [atom for atom in self.index.atoms() if isinstance(atom, Axis)]
        self.by_column = any(axis.base == "r" for axis in axes)


@dataclass
class Kernel:
    """A kernel before its schedule is chosen.

    Attributes:
        rows, columns: how many there are; `columns` is 1 without reductions.
        axes: the loop variables, rows' and columns', outermost first.
        nodes: in an order in which each comes after what it depends on.
        stores: what is written.
        inputs: what is read, in order of first use.
        ops: the operations, for comments and the name.
        rows_of_program: where programs add up rows, how many each does; else 0.
    """

    rows: int
    columns: int
    axes: list[Axis]
    nodes: list[Node]
    stores: list[Store]
    inputs: list[Var]
    ops: Sequence[Op]
    rows_of_program: int = 0

    @property
    def reduces(self) -> bool:
        return any(node.kind == "reduce" for node in self.nodes)

    @property
    def depth(self) -> int:
        return max((node.depth for node in self.nodes), default=0)

    def indices(self) -> list[Index]:
        """Every index expression of the kernel."""
        found = [node.index for node in self.nodes if node.index is not None]
        return found + [store.index for store in self.stores]

    def column_stride(self) -> int:
        """How far apart in memory neighbouring columns of the widest accesses are: 1 where columns are contiguous."""
        return _stride_along(self, "r")

    def row_stride(self) -> int:
        """As `column_stride`, for rows."""
        return _stride_along(self, "x")


def _stride_along(kernel: Kernel, base: str) -> int:
    """The smallest step that most of the accesses that depend on both rows and columns make along an axis."""
    innermost = min((axis for axis in kernel.axes if axis.base == base), key=lambda axis: axis.stride, default=None)
    if innermost is None:
        return 1
    steps: list[int] = []
    for index in kernel.indices():
        factors = dict(index.terms)
        if innermost in factors:
            steps.append(abs(factors[innermost]))
    steps.sort()
    return steps[len(steps) // 2] if steps else 1


def forget_bounds(kernel: Kernel) -> None:
    """Writes indices as they are computed, once what is known of their ranges has simplified them."""
    for node in kernel.nodes:
        if node.index is not None:
            node.index = Bounded.removed(node.index)
    for store in kernel.stores:
        store.index = Bounded.removed(store.index)


def merge_axes(kernel: Kernel) -> None:
    """Makes one axis of two where no access tells them apart."""
    merged = True
    while merged:
        merged = False
        for base in "xr":
            axes = sorted((a for a in kernel.axes if a.base == base), key=lambda a: a.stride)
            for inner, outer in zip(axes, axes[1:]):
                if _are_together(kernel, outer, inner):
                    _merge(kernel, outer, inner)
                    merged = True
                    break


def _are_together(kernel: Kernel, outer: Axis, inner: Axis) -> bool:
    for index in kernel.indices():
        factors = dict(index.terms)
        if factors.get(outer, 0) != factors.get(inner, 0) * inner.size:
            return False
        for atom in factors:
            if isinstance(atom, (Quotient, Remainder)) and ({outer, inner} & set(atom.operand.atoms())):
                return False
    return True


def _merge(kernel: Kernel, outer: Axis, inner: Axis) -> None:
    whole = Axis.make(inner.base, inner.size * outer.size, inner.stride)

    def replace(atom: Atom) -> Index | None:
        if atom == inner:
            return Index.of(whole)
        return Index() if atom == outer else None

    for node in kernel.nodes:
        if node.index is not None:
            node.index = node.index.substitute(replace)
    for store in kernel.stores:
        store.index = store.index.substitute(replace)
    kernel.axes = [axis for axis in kernel.axes if axis not in (outer, inner)] + [whole]
    kernel.axes.sort(key=lambda axis: (axis.base != "x", -axis.stride))


def describe(value: Any) -> str:
    """`"bf16[2, 3]"`: a tensor's type without its device."""
    from_device = Var("value", value).describe()
    return from_device.partition(" ")[2]
