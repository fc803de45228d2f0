"""Specialises a backward trace to gradients that are known to be absent.

When the user differentiates only the loss, the gradients of the other outputs do not exist.  They count as zeros; this
pass follows the zeros through the trace and drops what they make zero, instead of filling memory with them.
"""

from __future__ import annotations

import functools
from typing import Any

from thunder.lower.operators import aten, is_aten
from thunder.trace import Namer, Op, Trace, Var, iterate_vars, map_vars, trace_pass

# Zero when the first tensor among the arguments is.
_LINEAR = frozenset(
    {
        "_to_copy", "_unsafe_view", "alias", "as_strided", "clone", "cumsum", "detach", "diagonal", "div", "expand",
        "flip", "mean", "narrow", "neg", "permute", "repeat", "reshape", "roll", "select", "slice", "split",
        "split_with_sizes", "squeeze", "sum", "t", "transpose", "tril", "triu", "unbind", "unfold", "unsqueeze", "view",
        "convert_element_type", "index_select", "gather", "index", "constant_pad_nd", "logsumexp_backward",
    }
)  # fmt: skip

# Zero when any tensor among the arguments is.
_PRODUCTS = frozenset({"mul", "mm", "bmm", "mv", "dot", "native_dropout_backward"})


@trace_pass
def drop_absent_inputs(trace: Trace, absent: frozenset[int]) -> Trace:
    """The trace without the inputs of these numbers, which are zeros; an output that is zero becomes None."""
    zeros = {id(trace.inputs[number]) for number in absent}
    namer = Namer({var.name for var in trace.variables()})
    replaced: dict[int, Var] = {}
    ops: list[Op] = []
    for op in trace.ops:
        op = op.map_inputs(lambda var: replaced.get(id(var), var))
        if not any(id(var) in zeros for var in op.inputs()):
            ops.append(op)
        elif _is_zero(op, zeros):
            zeros.update(id(var) for var in op.outputs())
        elif (same := _sum_with_zero(op, zeros)) is not None:
            replaced[id(op.result)] = same
        else:
            filled: dict[int, Var] = {id(var): _fill(var, ops, namer) for var in op.inputs() if id(var) in zeros}
            ops.append(op.map_inputs(functools.partial(_replacement, filled)))

    def output(var: Var) -> Var | None:
        var = replaced.get(id(var), var)
        return None if id(var) in zeros else var

    inputs = [var for number, var in enumerate(trace.inputs) if number not in absent]
    return trace.replace(inputs=inputs, ops=ops, output=map_vars(output, trace.output))


def _name(op: Op) -> str:
    return op.target._schema.name.partition("::")[2] if is_aten(op.target) else ""


def _replacement(filled: dict[int, Var], var: Var) -> Var:
    return filled.get(id(var), var)


def _is_zero(op: Op, zeros: set[int]) -> bool:
    """Whether every result is zero."""
    name, inputs = _name(op), list(op.inputs())
    if name in _PRODUCTS:
        return True
    if name in ("add", "sub", "cat", "stack"):
        return all(id(var) in zeros for var in inputs) and all(isinstance(arg, (Var, list, int)) for arg in op.args)
    linear = name in _LINEAR or "_backward" in name  # the derivative of any operator is linear in its first argument
    return linear and isinstance(op.args[0], Var) and id(op.args[0]) in zeros


def _sum_with_zero(op: Op, zeros: set[int]) -> Var | None:
    """`x` for `x + 0`, where that is `x` in shape, type and layout."""
    if op.target is not aten.add.Tensor or op.kwargs or not all(isinstance(arg, Var) for arg in op.args):
        return None
    (other,) = [var for var in iterate_vars(op.args) if id(var) not in zeros]
    result: Any = op.result.value
    same = (other.value.shape, other.value.dtype, other.value.stride()) == (
        result.shape,
        result.dtype,
        result.stride(),
    )
    return other if same else None


def _fill(var: Var, ops: list[Op], namer: Namer) -> Var:
    """Zeros in the place of an absent value, for an operation that needs them."""
    value: Any = var.value
    flat, zeros = Var(namer.fresh("z"), value), Var(namer.fresh("z"), value)
    options = {"dtype": value.dtype, "device": value.device}
    reach = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride())) + 1
    ops.append(Op(aten.full.default, ([reach if value.numel() else 0], 0), options, flat))
    ops.append(Op(aten.as_strided.default, (flat, list(value.shape), list(value.stride())), {}, zeros))
    return zeros
