"""Operators whose result is elements of an argument, in another order or shape.

Each row: (operation, its result, element of the result) -> (the argument, element of the argument).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thunder.executors.triton_fusion.index import ZERO, Index, contiguous_strides, linear, unravel
from thunder.lower.operators import aten
from thunder.trace import Op, Var

Element = tuple[Index, ...]
View = Callable[[Op, Var, Element], tuple[Var, Element]]


def _shape(var: Var) -> tuple[int, ...]:
    return tuple(var.value.shape)


def _reshape(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source = op.args[0]
    if _shape(source) == _shape(result):
        return source, element
    inner, outer = _shape(source), _shape(result)
    if sum(n != 1 for n in inner) == sum(n != 1 for n in outer) and [n for n in inner if n != 1] == [
        n for n in outer if n != 1
    ]:  # only axes of size one come or go
        kept = iter(index for index, size in zip(element, outer) if size != 1)
        return source, tuple(ZERO if size == 1 else next(kept) for size in inner)
    return source, unravel(linear(element, contiguous_strides(outer)), inner)


def _permute(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source, order = op.args[0], op.args[1]
    return source, _permuted(element, [dim % len(element) for dim in order])


def _permuted(element: Element, order: list[int]) -> Element:
    inner = [ZERO] * len(element)
    for position, dim in enumerate(order):
        inner[dim] = element[position]
    return tuple(inner)


def _transpose(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    ndim = len(element)
    if ndim == 0:
        return op.args[0], element
    order = list(range(ndim))
    first, second = op.args[1] % ndim, op.args[2] % ndim
    order[first], order[second] = order[second], order[first]
    return op.args[0], _permuted(element, order)


def _t(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    return op.args[0], element[::-1]


def _expand(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source = op.args[0]
    own = element[len(element) - len(_shape(source)) :]
    return source, tuple(ZERO if size == 1 else index for size, index in zip(_shape(source), own))


def _slice(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source = op.args[0]
    arguments = dict(zip(("dim", "start", "end", "step"), op.args[1:])) | op.kwargs
    dim = arguments.get("dim", 0) % len(element)
    start, step, size = arguments.get("start") or 0, arguments.get("step", 1), _shape(source)[dim]
    start = min(max(start + size if start < 0 else start, 0), size)
    return source, (*element[:dim], element[dim] * step + start, *element[dim + 1 :])


def _select(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source, dim, number = op.args
    shape = _shape(source)
    dim %= len(shape)
    return source, (*element[:dim], Index((), number % shape[dim]), *element[dim:])


def _flip(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source, dims = op.args
    shape = _shape(source)
    flipped = {dim % len(shape) for dim in dims}
    return source, tuple(
        index * -1 + (shape[dim] - 1) if dim in flipped else index for dim, index in enumerate(element)
    )


def _parts(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    """`split` and `split_with_sizes`."""
    source = op.args[0]
    dim = (op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)) % len(element)
    start = 0
    for part in op.result:
        if part is result:
            break
        start += _shape(part)[dim]
    return source, (*element[:dim], element[dim] + start, *element[dim + 1 :])


def _unbind(op: Op, result: Var, element: Element) -> tuple[Var, Element]:
    source = op.args[0]
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % len(_shape(source))
    number = next(position for position, part in enumerate(op.result) if part is result)
    return source, (*element[:dim], Index((), number), *element[dim:])


VIEWS: dict[Any, View] = {
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.squeeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _t,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.flip.default: _flip,
    aten.split.Tensor: _parts,
    aten.split_with_sizes.default: _parts,
    aten.unbind.int: _unbind,
}
