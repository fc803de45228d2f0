"""Computes at compile time what does not depend on the inputs."""

from __future__ import annotations

from typing import Any

import torch

from thunder.lower.operators import aten, is_pure, is_uninitialised, is_view, tensor_bytes
from thunder.trace import Op, Trace, map_vars, trace_pass
from thunder.transforms.aliases import escaping_values

# Larger constants would cost more memory than they save time.
LARGEST_CONSTANT = 1 << 16

# A value that fused code writes down as a number is not worth a tensor.
_WRITTEN_DOWN = frozenset({aten.full.default, aten.scalar_tensor.default, aten.zeros.default, aten.ones.default})


@trace_pass
def fold_constants(trace: Trace) -> Trace:
    """Replaces values that are computed from constants alone by tensors.

    Only what an operation on the inputs uses becomes a tensor; values that outputs share memory with, large ones and
    plain fills stay as they are.
    """
    escaping = escaping_values(trace)
    constant: dict[int, Op] = {}
    for op in trace.ops:
        if _is_foldable(op) and all(id(var) in constant for var in op.inputs()):
            constant.update((id(var), op) for var in op.outputs())
    wanted = {
        id(var)
        for op in trace.ops
        if not all(id(var) in constant for var in op.outputs()) or not list(op.outputs())
        for var in op.inputs()
        if id(var) in constant and id(var) not in escaping and _is_worthwhile(constant[id(var)])
    }
    if not wanted:
        return trace
    values = _evaluate(trace, constant)
    known = [key for key in wanted if key in values]
    tensors = {key: values[key] for key in known if tensor_bytes(values[key]) <= LARGEST_CONSTANT}

    def substituted(op: Op) -> Op:
        if all(id(var) in constant for var in op.outputs()) and list(op.outputs()):
            return op
        return op.map_inputs(lambda var: tensors.get(id(var), var))

    return trace.replace(ops=[substituted(op) for op in trace.ops])


def _is_foldable(op: Op) -> bool:
    return is_pure(op) and not is_uninitialised(op) and bool(list(op.outputs()))


def _is_worthwhile(op: Op) -> bool:
    """Whether the value takes work to compute: not a fill, and not a view of one."""
    return op.target not in _WRITTEN_DOWN and not is_view(op)


def _evaluate(trace: Trace, constant: dict[int, Op]) -> dict[int, Any]:
    """The values of the constant Vars."""
    values: dict[int, Any] = {}

    def bind(result: Any, value: Any) -> None:
        if isinstance(result, tuple):
            for part, part_value in zip(result, value):
                bind(part, part_value)
        elif result is not None:
            values[id(result)] = value

    with torch.no_grad():
        for op in trace.ops:
            outputs = list(op.outputs())
            if outputs and id(outputs[0]) in constant:
                args = map_vars(lambda var: values[id(var)], op.args)
                kwargs = map_vars(lambda var: values[id(var)], op.kwargs)
                bind(op.result, op.target(*args, **kwargs))
    return values
