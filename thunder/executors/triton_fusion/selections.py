"""Operators that choose where each element comes from: concatenation, padding, scattering, gathering.

Each row: (lowering, operation, its result, element of the result, conditions) -> node.  What is chosen by a condition
is computed under it, so that memory is not read outside of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from thunder.executors.triton_fusion.index import ZERO, Bounded, Index
from thunder.executors.triton_fusion.kernel import Node, NotFusible
from thunder.executors.triton_fusion.pointwise import compute_dtype
from thunder.lower.operators import aten
from thunder.trace import Op, Var

if TYPE_CHECKING:
    from thunder.executors.triton_fusion.lowering import _Lowering

Element = tuple[Index, ...]
Select = Callable[["_Lowering", Op, Var, Element, tuple[Node, ...]], Node]


def _replaced(element: Element, dim: int, index: Index) -> Element:
    return (*element[:dim], index, *element[dim + 1 :])


def _condition(lowering: _Lowering, text: str, index: Index, op: Op) -> Node:
    return lowering.add("compute", torch.bool, (lowering.index(index, torch.int32),), text=text, op=op)


def _choose(lowering: _Lowering, condition: Node, yes: Node, no: Node, dtype: torch.dtype, op: Op) -> Node:
    cast = (condition, lowering.cast(yes, dtype), lowering.cast(no, dtype))
    return lowering.add("compute", dtype, cast, text="tl.where({0}, {1}, {2})", op=op)


def _cat(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % max(len(element), 1)
    dtype = compute_dtype(result.value.dtype)
    parts = [part for part in op.args[0] if _size_of(part) > 0]
    if any(not isinstance(part, Var) for part in parts):
        raise NotFusible("a constant is concatenated")
    position, chosen, start = element[dim], None, sum(part.value.shape[dim] for part in parts)
    for part in reversed(parts):
        end, start = start, start - part.value.shape[dim]
        if position.high < start or position.low >= end:
            continue
        here = conditions
        if position.low < start:
            here = (*here, _condition(lowering, f"{{0}} >= {start}", position, op))
        if position.high >= end:
            here = (*here, _condition(lowering, f"{{0}} < {end}", position, op))
        inner = _replaced(element, dim, Bounded.of(position + -start, end - start))
        node = lowering.cast(lowering.value(part, inner, here), dtype)
        if chosen is None:
            chosen = node
        else:
            chosen = _choose(lowering, _condition(lowering, f"{{0}} < {end}", position, op), node, chosen, dtype, op)
    if chosen is None:
        raise NotFusible("nothing is concatenated")
    return chosen


def _size_of(part: Any) -> int:
    tensor = part.value if isinstance(part, Var) else part
    return tensor.numel()


def _pad(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    source, padding = op.args[0], op.args[1]
    number = op.args[2] if len(op.args) > 2 else op.kwargs.get("value", 0)
    shape, dtype = source.value.shape, compute_dtype(result.value.dtype)
    inner, here = list(element), conditions
    inside: list[Node] = []
    for number_of_pair in range(len(padding) // 2):
        dim, before = len(shape) - 1 - number_of_pair, padding[2 * number_of_pair]
        inner[dim] = element[dim] + -before
        if inner[dim].low < 0:
            inside.append(_condition(lowering, f"{{0}} >= {before}", element[dim], op))
        if inner[dim].high >= shape[dim]:
            inside.append(_condition(lowering, f"{{0}} < {before + shape[dim]}", element[dim], op))
        inner[dim] = Bounded.of(inner[dim], shape[dim])
    node = lowering.cast(lowering.value(source, tuple(inner), (*here, *inside)), dtype)
    fill = lowering.constant(number or 0, dtype, kind="constant")
    for condition in inside:
        node = _choose(lowering, condition, node, fill, dtype, op)
    return node


def _slice_scatter(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    base, source = op.args[:2]
    arguments = dict(zip(("dim", "start", "end", "step"), op.args[2:])) | op.kwargs
    dim = arguments.get("dim", 0) % len(element)
    size, step = result.value.shape[dim], arguments.get("step", 1)
    start, end = arguments.get("start") or 0, arguments.get("end")
    start = min(max(start + size if start < 0 else start, 0), size)
    end = size if end is None else min(max(end + size if end < 0 else end, 0), size)
    if step != 1:
        raise NotFusible("a slice with steps is replaced")
    return _scattered(lowering, op, result, element, conditions, dim, start, end, base, source, keeps_axis=True)


def _select_scatter(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    base, source, dim, number = op.args
    dim %= len(element)
    number %= result.value.shape[dim]
    return _scattered(
        lowering, op, result, element, conditions, dim, number, number + 1, base, source, keeps_axis=False
    )


def _scattered(
    lowering: _Lowering,
    op: Op,
    result: Var,
    element: Element,
    conditions: tuple[Node, ...],
    dim: int,
    start: int,
    end: int,
    base: Var,
    source: Var,
    *,
    keeps_axis: bool,
) -> Node:
    """`base` with `source` in place of what is from `start` to `end` along `dim`."""
    dtype, position = compute_dtype(result.value.dtype), element[dim]
    inside: list[Node] = []
    if position.high < start or position.low >= end:
        return lowering.cast(lowering.value(base, element, conditions), dtype)
    if position.low < start:
        inside.append(_condition(lowering, f"{{0}} >= {start}", position, op))
    if position.high >= end:
        inside.append(_condition(lowering, f"{{0}} < {end}", position, op))
    inner = (*element[:dim], Bounded.of(position + -start, end - start), *element[dim + 1 :])
    if not keeps_axis:
        inner = (*element[:dim], *element[dim + 1 :])
    node = lowering.cast(lowering.value(source, inner, (*conditions, *inside)), dtype)
    for condition in inside:
        node = _choose(lowering, condition, node, lowering.value(base, element, conditions), dtype, op)
    return node


def _indexed(lowering: _Lowering, node: Node, size: int, *, wraps: bool, op: Op) -> Index:
    """The value of an index tensor as an index; negative ones count from the end where `wraps`."""
    if node.dtype is torch.bool or node.dtype.is_floating_point:
        raise NotFusible("a mask is an index")
    if wraps:
        node = lowering.add("compute", node.dtype, (node,), text=f"tl.where({{0}} < 0, {{0}} + {size}, {{0}})", op=op)
    return lowering.loaded_index(node, size)


def _gather(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    source, dim, indices = op.args[:3]
    if not element:
        raise NotFusible("a tensor without axes is gathered from")
    dim %= len(element)
    index = _indexed(
        lowering, lowering.value(indices, element, conditions), source.value.shape[dim], wraps=False, op=op
    )
    return lowering.value(source, _replaced(element, dim, index), conditions)


def _index_select(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    source, dim, indices = op.args
    dim %= max(len(element), 1)
    if not element or indices.value.dim() != 1:
        raise NotFusible("a tensor without axes is selected from")
    node = lowering.value(indices, (element[dim],), conditions)
    index = _indexed(lowering, node, source.value.shape[dim], wraps=False, op=op)
    return lowering.value(source, _replaced(element, dim, index), conditions)


def _embedding(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    weight, indices = op.args[:2]
    node = lowering.value(indices, element[:-1], conditions)
    index = _indexed(lowering, node, weight.value.shape[0], wraps=False, op=op)
    return lowering.value(weight, (index, element[-1]), conditions)


def _index(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    """`x[indices]`: the indexed axes stand side by side and are the first, or all is indexed."""
    source, indices = op.args
    if any(index is not None and not isinstance(index, Var) for index in indices):
        raise NotFusible("a constant is an index")
    positions = [dim for dim, index in enumerate(indices) if index is not None]
    if positions != list(range(positions[0], positions[0] + len(positions))):
        raise NotFusible("the indexed axes are not side by side")
    first, ndim = positions[0], max(indices[dim].value.dim() for dim in positions)
    own = element[first : first + ndim]
    shape = source.value.shape
    found: list[Index] = []
    for dim in positions:
        sizes = indices[dim].value.shape
        aligned = own[ndim - len(sizes) :]
        at = tuple(ZERO if size == 1 else index for size, index in zip(sizes, aligned))
        found.append(_indexed(lowering, lowering.value(indices[dim], at, conditions), shape[dim], wraps=True, op=op))
    return lowering.value(source, (*element[:first], *found, *element[first + ndim :]), conditions)


def _scatter(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    """`base.scatter(dim, index, value)` where `index` has one element along `dim` and all along the others."""
    base, dim, indices, value = op.args
    shape, dim = result.value.shape, dim % max(len(element), 1)
    expected = tuple(1 if axis == dim else size for axis, size in enumerate(shape))
    if not element or tuple(indices.value.shape) != expected:
        raise NotFusible("several elements are scattered along an axis")
    dtype = compute_dtype(result.value.dtype)
    at = _replaced(element, dim, ZERO)
    index = lowering.value(indices, at, conditions)
    own = lowering.index(element[dim])
    here = lowering.add("compute", torch.bool, (own, index), text="{0} == {1}", op=op)
    if isinstance(value, Var):
        chosen = lowering.value(value, at, conditions)
    else:
        chosen = lowering.constant(value, dtype, kind="constant")
    return _choose(lowering, here, chosen, lowering.value(base, element, conditions), dtype, op)


def _arange(lowering: _Lowering, op: Op, result: Var, element: Element, conditions: tuple[Node, ...]) -> Node:
    arguments = list(op.args)
    start, step = 0, 1
    if op.target is not aten.arange.default:
        start = arguments[0]
        step = arguments[2] if len(arguments) > 2 else 1
    if not all(isinstance(number, int) for number in (start, step)):
        raise NotFusible("a range of floats")
    return lowering.cast(lowering.index(element[0] * step + start), compute_dtype(result.value.dtype))


SELECTIONS: dict[Any, Select] = {
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.gather.default: _gather,
    aten.index_select.default: _index_select,
    aten.embedding.default: _embedding,
    aten.index.Tensor: _index,
    aten.scatter.value: _scatter,
    aten.scatter.src: _scatter,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
}
