"""Puts the products of quantised weights with one row, as in decoding, into as few operations as there can be.

Input: a torch-level trace.  Output: the same program in which calls of `linear_weight_only` without gradients on one
row are calls of `linear_weight_only_merged`:

- gate and up of an MLP, with the activation and the product of both;
- a layer with the addition of a residual after it;
- query, key and value, and other products of one input, with a split of the result.

`thunder.kernels.use_gemv` then makes the RMSNorm before them a part of them.  Nothing is moved in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from thunder.kernels.fake_values import refreshed_values
from thunder.kernels.norm_folding import NormPlaces, register_norm_folding
from thunder.kernels.pattern import Pattern
from thunder.kernels.registry import Kernel, is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings, substitute_kernel, without_no_ops
from thunder.trace import Namer, Op, Trace, Var, trace_pass

SINGLE = torch.ops.thunder.linear_weight_only.default
MERGED = torch.ops.thunder.linear_weight_only_merged.default
MOST_WEIGHTS = 3

register_norm_folding(
    MERGED,
    NormPlaces(x=0, norm_weight=8, eps=9, weights=(1, 2, 3, 4, 5), defaults=(None,) * 9 + (1e-6, "none")),
)


@trace_pass
def merge_quantized_products(trace: Trace) -> Trace:
    """Products with one row and what stands around them become one."""
    if is_disabled("merge_quantized_products"):
        return trace
    if not any(op.target is SINGLE for op in trace.ops):
        return trace
    trace = without_no_ops(trace)
    for kernel in (*_GATES, _RESIDUAL):
        trace = substitute_kernel(trace, kernel)
    groups: dict[Any, list[Op]] = {}
    for op in trace.ops:
        if op.target is SINGLE and _is_mergeable(op):
            x, format, bias = op.args[0], op.args[6], op.args[5]
            key = (id(x), format, bias is None, bias is not None and bias.value.dtype)
            groups.setdefault(key, []).append(op)
    surroundings, namer = Surroundings(trace), Namer({var.name for var in trace.variables()})
    replaced: dict[int, list[Op]] = {}
    for group in groups.values():
        for start in range(0, len(group), MOST_WEIGHTS):
            ops = group[start : start + MOST_WEIGHTS]
            values = [var for op in ops for var in op.inputs()]
            if surroundings.may_move(ops, ops[-1], values):
                replaced[id(ops[0])] = _merged(ops, namer)
                replaced.update((id(op), []) for op in ops[1:])
    if not replaced:
        return trace
    merged = trace.replace(ops=[new for op in trace.ops for new in replaced.get(id(op), [op])])
    values_after = refreshed_values(merged, {id(op) for new in replaced.values() for op in new})
    if values_after is None:
        return trace
    for var, value in values_after:
        var.value = value
    return merged


def _is_row(x: Any) -> bool:
    sizes = x.shape
    return all(type(size) is int for size in sizes) and x.numel() == sizes[-1]


def _is_mergeable(op: Op) -> bool:
    x = op.args[0]
    if not isinstance(x, Var) or not isinstance(op.result, Var) or len(op.args) != 7:
        return False
    return _is_row(x.value) and not op.result.value.requires_grad and is_wanted_on(x.value.device.type)


def _merged(ops: list[Op], namer: Namer) -> list[Op]:
    first = ops[0]
    columns = [[op.args[position] for op in ops if op.args[position] is not None] for position in range(1, 6)]
    if len(ops) == 1:
        return [Op(MERGED, (first.args[0], *columns, first.args[6]), {}, first.result, first.location, first.scope)]
    sizes = [op.result.value.shape[-1] for op in ops]
    value = first.result.value
    joined = Var(namer.fresh("merged"), value.new_empty((*value.shape[:-1], sum(sizes))))
    call = Op(MERGED, (first.args[0], *columns, first.args[6]), {}, joined, first.location, first.scope)
    parts = Op(torch.Tensor.split, (joined, sizes, -1), {}, tuple(op.result for op in ops), first.location, first.scope)
    return [call, parts]


def _product(x: Any, *rest: Any) -> Any:
    """A call of `linear_weight_only` in a pattern."""
    return getattr(x, SINGLE.__name__)(*rest)


def _listed(*values: Any) -> list[Any]:
    return [value for value in values if value is not None]


def _gated(activate: Callable[[Any], Any], name: str) -> Kernel:
    """Gate and up as one operation, with this activation."""

    def pattern(x, gate, scales, zeros, whole, bias, format, up, up_scales, up_zeros, up_whole, up_bias):
        first = _product(x, gate, scales, zeros, whole, bias, format)
        return activate(first) * _product(x, up, up_scales, up_zeros, up_whole, up_bias, format)

    def check(x: Any, bias: Any, up_bias: Any, gate: Any, up: Any, **_others: Any) -> bool:
        return _is_row(x) and (bias is None) == (up_bias is None) and gate.shape == up.shape

    def arguments(x, gate, scales, zeros, whole, bias, format, up, up_scales, up_zeros, up_whole, up_bias):
        pairs = ((gate, up), (scales, up_scales), (zeros, up_zeros), (whole, up_whole), (bias, up_bias))
        return (x, *(_listed(*pair) for pair in pairs), format, None, None, 1e-6, name)

    return Kernel(f"quantized_gate_{name}", (Pattern.of(pattern),), MERGED, check, arguments, ("cuda",), True)


def _with_residual(x, codes, scales, zeros, tensor_scale, bias, format, residual):
    return residual + _product(x, codes, scales, zeros, tensor_scale, bias, format)


def _residual_fits(x: Any, codes: Any, residual: Any, **_others: Any) -> bool:
    is_tensor = isinstance(residual, torch.Tensor) and residual.dtype is x.dtype
    return is_tensor and _is_row(x) and residual.shape == (*x.shape[:-1], codes.shape[0])


def _residual_arguments(x, codes, scales, zeros, tensor_scale, bias, format, residual):
    return (x, *map(_listed, (codes, scales, zeros, tensor_scale, bias)), format, residual)


_GATES = (
    _gated(F.silu, "silu"),
    _gated(F.gelu, "gelu"),
    _gated(lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh"),
)
_RESIDUAL = Kernel(
    "quantized_residual", (Pattern.of(_with_residual),), MERGED, _residual_fits, _residual_arguments, ("cuda",), True
)
