"""Writes a kernel as Triton source.

Input: a `Kernel` and its `Schedule`.  Output: Python source of one `@triton.jit` function whose parameters are the
inputs and outputs, in order.  Kernels that are equal up to names have the same source but for comments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from dataclasses import dataclass

import torch

from thunder.executors.triton_fusion.index import Atom, Axis, Index, Loaded
from thunder.executors.triton_fusion.kernel import Kernel, Node, Store, describe
from thunder.executors.triton_fusion.pointwise import (
    MAXIMUM,
    MINIMUM,
    POINTWISE,
    REDUCTIONS,
    SUM,
    TRITON_NAMES,
    triton_name,
)
from thunder.executors.triton_fusion.schedule import Schedule
from thunder.kernels.binaries import KernelSource
from thunder.trace import Op

HEADER = """import triton
import triton.language as tl
"""

_HELPER = """
@triton.jit
def {side}(left, right):
    return tl.{function}(left, right, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_{function}(values, axis: tl.constexpr):
    return tl.reduce(values, axis, {side})

"""

_MAXIMUM_NAME_PARTS = 4


def write_kernel(kernel: Kernel, schedule: Schedule) -> KernelSource:
    """The kernel's source."""
    return _Writer(kernel, schedule).source()


def kernel_name(ops: Iterable[Op]) -> str:
    """A name that says what the kernel computes: `mean_rsqrt_mul`."""
    names: list[str] = []
    for op in ops:
        name = op.target.name().partition("::")[2].partition(".")[0].strip("_")
        if (op.target in POINTWISE or op.target in REDUCTIONS or name in ("cat", "gather", "embedding")) and (
            name not in names
        ):
            names.append(name)
    if len(names) > _MAXIMUM_NAME_PARTS:
        reductions = [op.target.name().partition("::")[2].partition(".")[0] for op in ops if op.target in REDUCTIONS]
        names = [*dict.fromkeys([*names[:2], *reductions[:2], *names[-2:]])]
    return "_".join(names) or "copy"


def pointer_type(dtype: torch.dtype) -> str:
    """`*bf16` and so on, as in a kernel's signature."""
    short = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "u8", "int1": "i1"}
    name = TRITON_NAMES[dtype]
    return "*" + short.get(name, name.replace("int", "i"))


class _Writer:
    """The work of `write_kernel`."""

    def __init__(self, kernel: Kernel, schedule: Schedule) -> None:
        self.kernel, self.schedule = kernel, schedule
        self.is_flat = not kernel.reduces
        self.is_one_row = kernel.reduces and schedule.row_block == 1
        self.lines: list[str] = []
        self.indent = 1
        self.names: dict[int, str] = {}
        self.suffix = ""
        self.location: object = None
        self.numbers = {id(node): number for number, node in enumerate(kernel.nodes)}
        self.parameters = {id(var): f"in{number}" for number, var in enumerate(kernel.inputs)}
        self.row_mask = "" if kernel.rows % schedule.row_block == 0 else "in_rows"
        self.column_mask = "" if kernel.columns % schedule.column_block == 0 else "in_columns"
        self.online: dict[int, Node] = {}

    # Layout -------------------------------------------------------------------------------------------------------
    def source(self) -> KernelSource:
        kernel, name = self.kernel, kernel_name(self.kernel.ops)
        self._rows()
        if kernel.rows_of_program:
            self._row_by_row()
        elif self.schedule.is_looped:
            self._loops()
        else:
            self._at_once()
        outputs = [(f"out{number}", store.var) for number, store in enumerate(kernel.stores)]
        inputs = [(self.parameters[id(var)], var) for var in kernel.inputs]
        signature = tuple((parameter, pointer_type(var.value.dtype)) for parameter, var in (*inputs, *outputs))
        described = [f"    # {parameter}: {var.name} {describe(var.value)}" for parameter, var in (*inputs, *outputs)]
        parameters = ", ".join(parameter for parameter, _ in signature)
        head = ["@triton.jit", f"def {name}({parameters}):", *described]
        text = "\n".join([self._preamble(), *head, *self.lines, ""])
        return KernelSource(name, text, signature, self.schedule.warps)

    def _preamble(self) -> str:
        """Imports and the functions that the kernel calls."""
        body, text = "\n".join(self.lines), HEADER
        if "device_math." in body:
            text += "from triton.language.extra import libdevice as device_math\n"
        text += "\n"
        for function, side in (("maximum", "larger"), ("minimum", "smaller")):
            if f"row_{function}(" in body:
                text += _HELPER.format(function=function, side=side)
        return text

    def _line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def _rows(self) -> None:
        kernel, schedule = self.kernel, self.schedule
        program = "tl.program_id(0).to(tl.int64)" if schedule.wide_indices else "tl.program_id(0)"
        if kernel.rows_of_program:
            count = kernel.rows // kernel.rows_of_program
            self._line(f"chunk = {program}  # of {count}, each of {kernel.rows_of_program} rows")
            self._line(f"RBLOCK: tl.constexpr = {schedule.column_block}")
            self._columns(self._column_numbers())
            return
        if self.is_one_row:
            self._line(f"x = {program}  # of {kernel.rows}")
        else:
            self._line(f"XBLOCK: tl.constexpr = {schedule.row_block}")
            across = "" if self.is_flat else "[:, None]"
            self._line(f"x = {program} * XBLOCK + tl.arange(0, XBLOCK){across}  # of {kernel.rows}")
        if self.row_mask:
            self._line(f"in_rows = x < {kernel.rows}")
        self._parts("x")
        if not self.is_flat:
            self._line(f"RBLOCK: tl.constexpr = {schedule.column_block}")
            if not schedule.is_looped:
                self._columns(self._column_numbers())

    def _column_numbers(self) -> str:
        return "tl.arange(0, RBLOCK)" if self.is_one_row else "tl.arange(0, RBLOCK)[None, :]"

    def _block(self) -> str:
        """The shape of a value at every row and column of a program."""
        return "[RBLOCK]" if self.is_one_row else "[XBLOCK, RBLOCK]"

    def _of_one(self) -> str:
        """The shape of a value that is the same everywhere."""
        return "[]" if self.is_one_row else "[1]" if self.is_flat else "[1, 1]"

    def _columns(self, text: str) -> None:
        wide = ".to(tl.int64)" if self.schedule.wide_indices else ""
        self._line(f"r = {text}{wide}  # of {self.kernel.columns}")
        if self.column_mask:
            self._line(f"in_columns = r < {self.kernel.columns}")
        self._parts("r")

    def _parts(self, base: str) -> None:
        """The loop variables that rows or columns consist of."""
        axes = [axis for axis in self.kernel.axes if axis.base == base]
        total = self.kernel.rows if base == "x" else self.kernel.columns
        used = {atom for index in self.kernel.indices() for atom in index.atoms()}
        for axis in axes:
            if axis.size == total or axis not in used:
                continue
            text = base if axis.stride == 1 else f"{base} // {axis.stride}"
            if axis.size * axis.stride < total:
                text = f"{text} % {axis.size}" if axis.stride == 1 else f"({text}) % {axis.size}"
            self._line(f"{axis.name} = {text}")

    def _row_by_row(self) -> None:
        """A program goes through rows, each of which it holds, and adds up columns on the way."""
        kernel = self.kernel
        same = [node for node in kernel.nodes if not node.by_row]
        for node in same:
            self._node(node)
        totals = [(number, store) for number, store in enumerate(kernel.stores) if store.is_total]
        for number, _ in totals:
            self._line(f"total{number} = tl.zeros([RBLOCK], tl.float32)")
        height = kernel.rows_of_program
        self._line(f"for row in tl.range(0, {height}, num_stages={self.schedule.stages}):")
        self.indent += 1
        self._line(f"x = chunk * {height} + row  # of {kernel.rows}")
        self.location = None
        self._parts("x")
        self._at_once({id(node) for node in same})
        self.indent -= 1
        mask = f", {self.column_mask}" if self.column_mask else ""
        for number, store in totals:
            text = f"out{number} + (chunk * {kernel.columns} + {store.index.text(self._atom)})"
            self._line(f"tl.store({text}, total{number}{mask})  # {store.var.name}")

    def _at_once(self, written: Set[int] = frozenset()) -> None:
        """A program holds whole rows; `written`: nodes that are there already."""
        nodes = [node for node in self.kernel.nodes if id(node) not in written]
        first = [node for node in nodes if node.kind == "load" and not node.parents]
        hoisted = set(map(id, first))
        stores = {id(store.node): [] for store in self.kernel.stores}  # type: ignore[var-annotated]
        for number, store in enumerate(self.kernel.stores):
            stores[id(store.node)].append((number, store))
        for node in [*first, *(node for node in nodes if id(node) not in hoisted)]:
            self._node(node)
            if node.kind == "reduce":
                self._finish(node, self._masked(node))
            for number, store in stores.get(id(node), ()):
                self._store(number, store)

    def _loops(self) -> None:
        """A program steps through the columns once for each reduction that follows another, and once to write."""
        kernel = self.kernel
        for node in kernel.nodes:
            if not node.by_column and node.depth == 0:
                self._node(node)
        self.online = _running_softmax(kernel) if self.is_one_row else {}
        for depth in range(1, kernel.depth + 2):
            reductions = [node for node in kernel.nodes if node.kind == "reduce" and node.depth == depth]
            last = depth == kernel.depth + 1
            stores = [
                (number, store) for number, store in enumerate(kernel.stores)
                if store.by_column and (store.node.depth == depth - 1)
            ]  # fmt: skip
            if reductions or stores:
                self._loop(depth, reductions, stores)
            if not last:
                for node in kernel.nodes:
                    if node.kind == "reduce" and node.depth == depth:
                        self._finish_sum(node)
                    elif not node.by_column and node.depth == depth:
                        self._node(node)
        for number, store in enumerate(kernel.stores):
            if not store.by_column:
                self._store(number, store)

    def _loop(self, depth: int, reductions: list[Node], stores: list[tuple[int, Store]]) -> None:
        for node in reductions:
            if id(node) in self.online:
                number = self.numbers[id(node)]
                self._line(f'top{number} = tl.full([RBLOCK // 8], float("-inf"), tl.float32)')
                self._line(f"sum{number} = tl.zeros([RBLOCK // 8], tl.float32)")
                continue
            if self._is_running(node):
                continue
            self._line(
                f"sum{self.numbers[id(node)]} = tl.full({self._block()}, {self._neutral(node)}, "
                f"{triton_name(node.dtype)})"
            )
        self._line(f"for start in range(0, {self.kernel.columns}, RBLOCK):")
        self.indent += 1
        self.suffix, self.location = (f"_{depth}" if depth > 1 else ""), None
        self._columns(f"start + {self._column_numbers()}")
        own = [node for node in reductions if not self._is_running(node)]
        wanted = self._needed([*own, *(store.node for _, store in stores)])
        first = [node for node in self.kernel.nodes if node.kind == "load" and not node.parents]
        ordered = [*first, *(node for node in self.kernel.nodes if node.kind != "load" or node.parents)]
        for node in ordered:
            if id(node) in wanted and node.by_column:
                self._node(node)
        for node in reductions:
            if id(node) in self.online:
                self._step_of_softmax(node)
                continue
            if self._is_running(node):
                continue
            total = f"sum{self.numbers[id(node)]}"
            assert node.reduction is not None
            self._line(f"{total} = {node.reduction.combine.format(total, self._masked(node))}")
        for number, store in stores:
            self._store(number, store)
        self.indent -= 1
        self.suffix, self.location = "", None

    def _is_running(self, node: Node) -> bool:
        """Whether the reduction is found together with a maximum."""
        return any(total is node for total in self.online.values())

    def _step_of_softmax(self, node: Node) -> None:
        """The running maximum of eight neighbouring columns each, and the sum of the exponentials below it."""
        number = self.numbers[id(node)]
        total = self.online[id(node)]
        self._line("# the maximum so far and, in the same pass, the sum of exp(value - maximum)")
        self._line(f"eights = tl.reshape({self._masked(node)}, [RBLOCK // 8, 8])")
        self._line(f"larger = tl.maximum(top{number}, tl.max(eights, 1))")
        self._line('finite = tl.where(larger == float("-inf"), 0.0, larger)')
        self._line(
            f"sum{number} = sum{number} * tl.exp(top{number} - finite) + tl.sum(tl.exp(eights - finite[:, None]), 1)"
            f"{self._comment(total.op)}"
        )
        self._line(f"top{number} = larger")

    def _finish_sum(self, node: Node) -> None:
        number = self.numbers[id(node)]
        if id(node) in self.online:
            maximum, total = self._name(node), self._name(self.online[id(node)])
            self._line(f"{maximum} = row_maximum(top{number}, 0){self._comment(node.op)}")
            self._line(f'finite = tl.where({maximum} == float("-inf"), 0.0, {maximum})')
            self._line(f"{total} = tl.sum(sum{number} * tl.exp(top{number} - finite), 0)")
        elif not self._is_running(node):
            self._finish(node, f"sum{number}")

    def _needed(self, nodes: list[Node]) -> set[int]:
        found: set[int] = set()
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if id(node) in found:
                continue
            found.add(id(node))
            if node.by_column or node in nodes:
                pending += node.parents
        return found

    # Statements ---------------------------------------------------------------------------------------------------
    def _name(self, node: Node) -> str:
        if node.kind == "constant":
            return node.text
        number = self.numbers[id(node)]
        return f"v{number}{self.suffix if node.by_column else ''}"

    def _atom(self, atom: Atom) -> str:
        if isinstance(atom, Loaded):
            return self._name(atom.node)
        if isinstance(atom, Axis):
            total = self.kernel.rows if atom.base == "x" else self.kernel.columns
            return atom.base if atom.size == total else atom.name
        return atom.name

    def _node(self, node: Node) -> None:
        if node.kind in ("constant", "reduce"):
            return
        if node.kind == "load":
            text, comment = self._load(node), ""
        elif node.kind == "fill":
            text, comment = f"tl.full({self._of_one()}, {node.text}, {triton_name(node.dtype)})", ""
        elif node.kind == "index":
            assert node.index is not None
            text, comment = self._index_value(node.index, node.dtype), ""
        else:
            text = node.text.format(*(self._name(arg) for arg in node.args))
            comment = self._comment(node.op)
        self._line(f"{self._name(node)} = {text}{comment}")

    def _comment(self, op: Op | None) -> str:
        if op is None:
            return ""
        if op.location is not None and op.location[:2] != self.location:
            self.location = op.location[:2]
            self._line(f"# {os.path.basename(op.location.filename)}:{op.location.line}  {op.location.text}")
        return f"  # {op.result if not isinstance(op.result, tuple) else op.result[0]} = {op.target.name()}"

    def _index_value(self, index: Index, dtype: torch.dtype) -> str:
        text = index.text(self._atom)
        if not index.terms:
            return f"tl.full({self._of_one()}, {text}, {triton_name(dtype)})"
        return text if dtype is torch.int32 else f"({text}).to({triton_name(dtype)})"

    def _load(self, node: Node) -> str:
        assert node.index is not None and node.buffer is not None
        index, shape = node.index, _Shape.of(node.index)
        text = index.text(self._atom)
        conditions = []
        for condition in node.args:
            conditions.append(self._name(condition))
            if condition.by_row and not shape.by_row:
                text, shape = f"{text} + x * 0", _Shape(True, shape.by_column)
            if condition.by_column and not shape.by_column:
                text, shape = f"{text} + r * 0", _Shape(shape.by_row, True)
        masks = self._masks(shape) + conditions
        mask = f", {' & '.join(masks)}, other=0" if masks else ""
        cast = ".to(tl.float32)" if node.dtype is not node.buffer.value.dtype else ""
        offset = "" if text == "0" else f" + ({text})" if " " in text else f" + {text}"
        return f"tl.load({self.parameters[id(node.buffer)]}{offset}{mask}){cast}"

    def _masks(self, shape: _Shape) -> list[str]:
        masks = [self.row_mask] if shape.by_row and self.row_mask else []
        return masks + ([self.column_mask] if shape.by_column and self.column_mask else [])

    def _masked(self, node: Node) -> str:
        """What a reduction combines, with neutral numbers beyond the last column."""
        name = self._name(node.args[0])
        if node.args[0].kind == "constant":
            name = f"tl.full({self._block()}, {name}, {triton_name(node.dtype)})"
        elif not node.args[0].by_column:
            name = f"tl.broadcast_to({name}, {self._block()})"
        return f"tl.where({self.column_mask}, {name}, {self._neutral(node)})" if self.column_mask else name

    def _neutral(self, node: Node) -> str:
        assert node.reduction is not None
        if not node.dtype.is_floating_point and node.reduction in (MAXIMUM, MINIMUM):
            limits = torch.iinfo(node.dtype)
            return str(limits.min if node.reduction is MAXIMUM else limits.max)
        return node.reduction.neutral

    def _finish(self, node: Node, values: str) -> None:
        assert node.reduction is not None
        comment = self._comment(node.op)
        axis, across = (0, "") if self.is_one_row else (1, "[:, None]")
        self._line(f"{self._name(node)} = {node.reduction.finish.format(values, axis)}{across}{comment}")

    def _store(self, number: int, store: Store) -> None:
        if store.is_total:
            comment = self._comment(store.op)
            self._line(f"total{number} += {self._name(store.node)}{comment}")
            return
        shape = _Shape.of(store.index)
        text = store.index.text(self._atom)
        if not shape.by_row and not shape.by_column and not self.is_one_row:
            zeros = "tl.zeros([1], tl.int32)" if self.is_flat else "tl.zeros([1, 1], tl.int32)"
            text = zeros if text == "0" else f"{text} + {zeros}"
        masks = self._masks(shape)
        mask = f", {' & '.join(masks)}" if masks else ""
        address = f"out{number} + ({text})" if " " in text else f"out{number} + {text}"
        self._line(f"tl.store({address}, {self._name(store.node)}{mask})  # {store.var.name}")


def _running_softmax(kernel: Kernel) -> dict[int, Node]:
    """Sums of `exp(value - maximum)`, by the maximum: they are found in the pass that finds the maximum.

    The depth of what follows is set accordingly.
    """
    found: dict[int, Node] = {}
    for node in kernel.nodes:
        node.depth = max((parent.depth for parent in node.parents), default=0)
        if node.kind != "reduce":
            continue
        maximum = _maximum_below(node)
        if maximum is not None and id(maximum) not in found:
            found[id(maximum)] = node
            node.depth = maximum.depth
        else:
            node.depth += 1
    return found


def _maximum_below(node: Node) -> Node | None:
    """The maximum in `sum(exp(value - maximum(value)))`."""
    power = node.args[0]
    if node.reduction is not SUM or power.text != "tl.exp({0})" or power.dtype is not torch.float32:
        return None
    difference = power.args[0]
    if difference.text != "{0} - {1}" or difference.args[1].kind != "reduce":
        return None
    value, maximum = difference.args
    return maximum if maximum.reduction is MAXIMUM and maximum.args[0] is value else None


@dataclass(frozen=True)
class _Shape:
    """Which of rows and columns a block extends along."""

    by_row: bool
    by_column: bool

    @staticmethod
    def of(index: Index) -> _Shape:
        by_row = by_column = False
        for atom in index.atoms():
            if isinstance(atom, Axis):
                by_row |= atom.base == "x"
                by_column |= atom.base == "r"
            elif isinstance(atom, Loaded):
                by_row |= atom.node.by_row
                by_column |= atom.node.by_column
        return _Shape(by_row, by_column)
