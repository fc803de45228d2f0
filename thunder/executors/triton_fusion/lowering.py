"""From the operations of a region to a `Kernel`.

Input: operations, and the values of theirs that are needed outside.  Output: the kernel that computes them, or
`NotFusible`.

The kernel is found backwards.  Each output is asked for at the element (x, r); to know it, its operation asks for its
arguments at elements of theirs; views only change the element that is asked for; what no operation of the region
computes is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from thunder.executors.triton_fusion.index import (
    ZERO,
    Axis,
    Index,
    Loaded,
    SplitAxis,
    contiguous_strides,
    linear,
    unravel,
)
from thunder.executors.triton_fusion.kernel import Kernel, Node, NotFusible, Store, forget_bounds, merge_axes
from thunder.executors.triton_fusion.pointwise import (
    ALL,
    ANY,
    BOOLEAN,
    CONVERSIONS,
    FILLS,
    MAXIMUM,
    MINIMUM,
    POINTWISE,
    PROMOTED,
    REDUCTIONS,
    Pointwise,
    compute_dtype,
    literal,
    triton_name,
)
from thunder.executors.triton_fusion.reductions import domain, main_domain, reduced_axes, rows_of_chunks
from thunder.executors.triton_fusion.selections import SELECTIONS
from thunder.executors.triton_fusion.views import VIEWS
from thunder.trace import Op, Var

Element = tuple[Index, ...]
Conditions = tuple[Node, ...]

# A region whose values are asked for at many different elements would compute them as many times.
_LARGEST_GROWTH = 6


def lower_region(ops: Sequence[Op], outputs: Sequence[Var], *, eager_rounding: bool = False) -> Kernel:
    """The kernel that computes `outputs`.

    Args:
        ops: in order; a value that none of them computes is an input.
        outputs: what is written to memory.
        eager_rounding: round each value to its dtype, as PyTorch's own kernels do.
    """
    cuts: dict[str, set[int]] = {"x": {1}, "r": {1}}
    for _ in range(32):
        try:
            return _Lowering(ops, outputs, cuts, eager_rounding).kernel()
        except SplitAxis as split:
            cuts[split.axis.base].add(split.axis.stride * split.divisor)
    raise NotFusible("the views divide the elements in too many ways")


class _Lowering:
    """The work of `lower_region`, for one choice of axes."""

    def __init__(
        self, ops: Sequence[Op], outputs: Sequence[Var], cuts: dict[str, set[int]], eager_rounding: bool
    ) -> None:
        self.ops, self.outputs, self.eager_rounding = ops, outputs, eager_rounding
        self.makers = {id(var): op for op in ops for var in op.outputs()}
        self.nodes: list[Node] = []
        self.inputs: dict[int, Var] = {}
        self._known: dict[tuple[object, ...], Node] = {}
        self._elements: dict[int, Element] = {}
        self._limit = _LARGEST_GROWTH * len(ops) + 64
        self._choose_domain(cuts)

    # The domain ---------------------------------------------------------------------------------------------------
    def _choose_domain(self, cuts: dict[str, set[int]]) -> None:
        """Rows and columns, from the reductions, or else from the last output."""
        reductions = [op for op in self.ops if op.target in REDUCTIONS]
        self.totals: dict[int, int] = {}
        if reductions:
            main = main_domain(reductions)
            if main is None:
                raise NotFusible("the reductions combine different numbers of elements")
            self.rows, self.columns, _ = main
            example = next(op for op in reductions if domain(op) == main)
            self.shape, self.reduced = tuple(example.args[0].value.shape), reduced_axes(example)
            self.totals = {id(op): rows_of_chunks(op, main) for op in reductions if domain(op) != main}
        else:
            self.shape = tuple(self.outputs[-1].value.shape)
            self.rows, self.columns, self.reduced = math.prod(self.shape), 1, ()
        self.axes = [*_axes("x", self.rows, cuts["x"]), *_axes("r", self.columns, cuts["r"])]
        self.row = _whole(axis for axis in self.axes if axis.base == "x")
        self.column = _whole(axis for axis in self.axes if axis.base == "r")
        kept_shape = [size for dim, size in enumerate(self.shape) if dim not in self.reduced]
        reduced_shape = [self.shape[dim] for dim in self.reduced]
        kept, columns = iter(unravel(self.row, kept_shape)), iter(unravel(self.column, reduced_shape))
        self.domain = tuple(next(columns) if dim in self.reduced else next(kept) for dim in range(len(self.shape)))

    def _element_of_output(self, var: Var) -> Element:
        """The element of an output that the kernel's element (x, r) is."""
        shape, count = tuple(var.value.shape), var.value.numel()
        if count == self.rows * self.columns:
            if shape == self.shape:
                return self.domain
            return unravel(linear(self.domain, contiguous_strides(self.shape)), shape)
        if count == self.rows and self.columns > 1:
            return unravel(self.row, shape)
        raise NotFusible(f"{var.name} has another number of elements than the kernel")

    # The whole ----------------------------------------------------------------------------------------------------
    def kernel(self) -> Kernel:
        """Asks for every output."""
        stores = []
        positions = {id(op): number for number, op in enumerate(self.ops)}
        order = sorted(self.outputs, key=lambda var: positions[id(self.makers[id(var)])], reverse=True)
        for var in order:
            if id(self.makers[id(var)]) in self.totals:
                stores.append(self._total(var, self.makers[id(var)]))
                continue
            element = self._elements.get(id(var))
            if element is None or not self._covers(element, var):
                element = self._element_of_output(var)
            node = self.value(var, element)
            strides = list(var.value.stride())
            if node.by_column and not any(_bases(index) & {"r"} for index in element) and self.columns > 1:
                raise NotFusible(f"{var.name} has a value for each row that depends on the column")
            stores.append(Store(var, node, linear(element, strides), self.makers[id(var)]))
        stores.reverse()
        kernel = Kernel(
            self.rows,
            self.columns,
            self.axes,
            self.nodes,
            stores,
            list(self.inputs.values()),
            list(self.ops),
            next(iter(self.totals.values()), 0),
        )
        _drop_unused(kernel)
        forget_bounds(kernel)
        merge_axes(kernel)
        return kernel

    def _total(self, var: Var, op: Op) -> Store:
        """The sum of the columns of a program's rows."""
        source = op.args[0]
        position = linear(self.domain, contiguous_strides(self.shape))
        node = self.value(source, unravel(position, tuple(source.value.shape)))
        return Store(var, self.cast(node, compute_dtype(var.value.dtype)), self.column, op, is_total=True)

    def _covers(self, element: Element, var: Var) -> bool:
        """Whether the elements of the kernel are those of `var`, each once."""
        position = linear(element, contiguous_strides(var.value.shape))
        if position.constant or not all(isinstance(atom, Axis) for atom, _ in position.terms):
            return False
        reach = 1
        for atom, factor in sorted(position.terms, key=lambda term: term[1]):
            if factor != reach or not isinstance(atom, Axis):
                return False
            reach *= atom.size
        return reach == var.value.numel() and reach in (self.rows * self.columns,)

    # Values -------------------------------------------------------------------------------------------------------
    def value(self, var: Var, element: Element, conditions: Conditions = ()) -> Node:
        """`var` at `element`; only where `conditions` hold may memory be read."""
        key = ("value", id(var), element, tuple(map(id, conditions)))
        node = self._known.get(key)
        if node is None:
            op = self.makers.get(id(var))
            node = self._load(var, element, conditions) if op is None else self._computed(op, var, element, conditions)
            self._known[key] = node
        return node

    def _load(self, var: Var, element: Element, conditions: Conditions) -> Node:
        tensor = var.value
        index = linear(element, tensor.stride())
        self.inputs.setdefault(id(var), var)
        return self.add("load", compute_dtype(tensor.dtype), conditions, index=index, buffer=var)

    def _computed(self, op: Op, var: Var, element: Element, conditions: Conditions) -> Node:
        view = VIEWS.get(op.target)
        if view is not None:
            source, index = view(op, var, element)
            return self.value(source, index, conditions)
        if id(var) not in self._elements and not conditions:
            self._elements[id(var)] = element
        target = op.target
        if target in CONVERSIONS:
            source = op.args[1] if op.target.name() == "aten::copy" else op.args[0]
            node = self.argument(source, var, element, conditions)
            return self.rounded(self.cast(node, compute_dtype(var.value.dtype)), var, op)
        if target in FILLS:
            number = FILLS[target](*op.args, **op.kwargs)
            return self.constant(number, compute_dtype(var.value.dtype))
        if target in REDUCTIONS:
            return self.rounded(self._reduced(op, var, element), var, op)
        select = SELECTIONS.get(target)
        if select is not None:
            return select(self, op, var, element, conditions)
        return self.rounded(self._pointwise(op, POINTWISE[target], var, element, conditions), var, op)

    def argument(self, value: object, var: Var, element: Element, conditions: Conditions) -> Node:
        """An argument of a pointwise operation at the element of the result, broadcast."""
        if isinstance(value, Var):
            shape = value.value.shape
            own = element[len(element) - len(shape) :]
            return self.value(value, tuple(ZERO if n == 1 else i for n, i in zip(shape, own)), conditions)
        if isinstance(value, torch.Tensor):
            return self.constant(value.item(), compute_dtype(value.dtype))
        return self.constant(value, torch.float64 if isinstance(value, float) else torch.int64, kind="constant")

    def _pointwise(self, op: Op, row: Pointwise, var: Var, element: Element, conditions: Conditions) -> Node:
        if set(op.kwargs) - row.keywords:
            raise NotFusible(f"{op.target} has arguments that no kernel handles")
        numbers = [argument for argument in op.args if argument is not None]
        named = [op.kwargs[name] for name in ("min", "max") if op.kwargs.get(name) is not None]
        template = row.template if isinstance(row.template, str) else row.template(*op.args, **op.kwargs)
        if template is None:
            raise NotFusible(f"{op.target} has arguments that no kernel handles")
        result = compute_dtype(var.value.dtype)
        args = [self.argument(argument, var, element, conditions) for argument in (*numbers, *named)]
        if row.meet == BOOLEAN:
            dtypes = [torch.bool] * len(args)
        elif row.meet == PROMOTED:
            dtypes = [compute_dtype(_promoted(op))] * len(args)
        else:
            dtypes = [result] * len(args)
        name = op.target.name()
        if name == "aten::where.self":
            dtypes[0] = torch.bool
        if name == "aten::bitwise_not":
            template = "{0} == 0" if result is torch.bool else "~{0}"
        elif name.startswith("aten::div") and not result.is_floating_point:
            raise NotFusible("integers are divided")
        elif name.startswith(("aten::leaky_relu", "aten::gelu")):
            args = args[:1]
        elif name.startswith("aten::mul") and result is torch.bool:
            template = "{0} & {1}"
        elif name.startswith("aten::add") and result is torch.bool:
            template = "{0} | {1}"
        cast = tuple(self.cast(node, dtype) for node, dtype in zip(args, dtypes))
        return self.add("compute", result, cast, text=template, op=op)

    def _reduced(self, op: Op, var: Var, element: Element) -> Node:
        if id(op) in self.totals:
            raise NotFusible("the kernel needs a sum over its own programs")
        reduction, is_mean = REDUCTIONS[op.target]
        source, reduced = op.args[0], reduced_axes(op)
        shape = tuple(source.value.shape)
        kept_shape = [size for dim, size in enumerate(shape) if dim not in reduced]
        keeps = len(element) == len(shape) and len(reduced) > 0 and len(shape) != len(kept_shape)
        kept = [i for dim, i in enumerate(element) if dim not in reduced] if keeps else list(element)
        row = linear(kept, contiguous_strides(kept_shape))
        if row != self.row:
            raise NotFusible("the result of a reduction is used in another order of the rows")
        columns = iter(unravel(self.column, [shape[dim] for dim in reduced]))
        remaining = iter(kept)
        inner = tuple(next(columns) if dim in reduced else next(remaining) for dim in range(len(shape)))
        key = ("reduce", id(op), inner)
        known = self._known.get(key)
        if known is not None:
            return known
        argument = self.value(source, inner)
        result = compute_dtype(var.value.dtype)
        if reduction in (ANY, ALL):
            total = self.add("reduce", torch.int32, (self.cast(self.cast(argument, torch.bool), torch.int32),),
                             reduction=reduction, op=op)  # fmt: skip
            node = self.add("compute", torch.bool, (total,), text="{0} != 0", op=op)
        elif argument.dtype is torch.bool and reduction in (MAXIMUM, MINIMUM):
            raise NotFusible("the largest of truth values")
        else:
            node = self.add("reduce", result, (self.cast(argument, result),), reduction=reduction, op=op)
            if is_mean:
                node = self.add("compute", result, (node,), text=f"{{0}} * {1.0 / self.columns!r}", op=op)
        self._known[key] = node
        return node

    # Nodes --------------------------------------------------------------------------------------------------------
    def add(self, kind: str, dtype: torch.dtype, args: tuple[Node, ...] = (), **facts: object) -> Node:
        """A node; one that is there already stands for an equal one."""
        facts_key = tuple((name, id(value) if name in ("op", "buffer", "reduction") else value)
                          for name, value in sorted(facts.items()) if name != "op")  # fmt: skip
        key = ("node", kind, dtype, tuple(map(id, args)), facts_key)
        node = self._known.get(key)
        if node is None:
            if len(self.nodes) > self._limit:
                raise NotFusible("too many values are computed again")
            node = Node(kind, dtype, args, **facts)  # type: ignore[arg-type]
            self.nodes.append(node)
            self._known[key] = node
        return node

    def constant(self, number: Any, dtype: torch.dtype, *, kind: str = "fill") -> Node:
        """A number: a tensor's ("fill"), or a literal that takes the dtype of what it meets ("constant")."""
        if isinstance(number, complex):
            raise NotFusible("complex numbers")
        if dtype.is_floating_point:
            number = float(number)
        elif dtype is torch.bool:
            number = bool(number)
        elif isinstance(number, float):
            number = int(number)
        return self.add(kind, dtype, text=literal(number), number=number)

    def index(self, index: Index, dtype: torch.dtype = torch.int64) -> Node:
        """The value of an index itself."""
        return self.add("index", dtype, index=index)

    def loaded_index(self, node: Node, size: int) -> Index:
        """An index that is a value, from 0 to `size - 1`."""
        return Index.of(Loaded(f"node{self.nodes.index(node)}", 0, max(size - 1, 0), node))

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """The value in another dtype."""
        if node.dtype is dtype:
            return node
        if node.kind in ("constant", "fill"):
            return self.constant(node.number, dtype, kind=node.kind)
        text = "{0} != 0" if dtype is torch.bool else f"{{0}}.to({triton_name(dtype)})"
        return self.add("compute", dtype, (node,), text=text)

    def rounded(self, node: Node, var: Var, op: Op) -> Node:
        """The value as eager PyTorch would have it, when that is asked for."""
        dtype = var.value.dtype
        if not self.eager_rounding or dtype not in (torch.bfloat16, torch.float16):
            return node
        return self.add("compute", torch.float32, (node,), text=f"{{0}}.to({triton_name(dtype)}).to(tl.float32)")


def _axes(base: str, size: int, cuts: set[int]) -> list[Axis]:
    ordered = [*sorted(cuts), size]
    pairs = zip(ordered, ordered[1:])
    return [Axis.make(base, outer // inner, inner) for inner, outer in pairs if outer // inner > 1][::-1]


def _whole(axes: Iterable[Axis]) -> Index:
    total = ZERO
    for axis in axes:
        total = total + Index.of(axis) * axis.stride
    return total


def _bases(index: Index) -> set[str]:
    return {atom.base for atom in index.atoms() if isinstance(atom, Axis)}


def _promoted(op: Op) -> torch.dtype:
    """The dtype in which PyTorch compares the arguments."""
    operands = [a.value if isinstance(a, Var) else a for a in op.args]
    if len(operands) == 1:
        return operands[0].dtype
    return torch.result_type(operands[0], operands[1])


def _drop_unused(kernel: Kernel) -> None:
    used: set[int] = set()
    pending = [store.node for store in kernel.stores]
    while pending:
        node = pending.pop()
        if id(node) not in used:
            used.add(id(node))
            pending += node.parents
    kernel.nodes = [node for node in kernel.nodes if id(node) in used]
    read = {id(node.buffer) for node in kernel.nodes if node.buffer is not None}
    kernel.inputs = [var for var in kernel.inputs if id(var) in read]
