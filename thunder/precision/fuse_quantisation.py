"""Quantising an input becomes a part of what makes the input: RMSNorm, or the activation and the gate of an MLP.

Input: a torch-level trace.  Output: the same program in which layers of one input share what `quantize_rows` makes of
it, and `quantize_rows` takes in the operation before it where nothing else uses that one's result.
"""

from __future__ import annotations

from typing import Any

import torch

from thunder.kernels.registry import active_kernels, is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings, substitute_kernel, without_no_ops
from thunder.trace import Op, Trace, Var, trace_pass

QUANTIZE = torch.ops.thunder.quantize_rows.default
PRODUCERS = ("rms_norm", "gated_silu", "gated_gelu", "gated_gelu_tanh")


@trace_pass
def fuse_quantisation(trace: Trace) -> Trace:
    """See the module's docstring."""
    if is_disabled("fuse_quantisation") or not any(_is_plain(op) for op in trace.ops):
        return trace
    trace = _shared(without_no_ops(trace))
    for kernel in active_kernels(is_fused=False):
        if kernel.name in PRODUCERS:
            trace = substitute_kernel(trace, kernel, _is_for_quantising)
    return _folded(trace)


def _is_plain(op: Op) -> bool:
    """Whether it quantises what something else has made, where kernels are wanted."""
    if op.target is not QUANTIZE or len(op.args) != 1 or op.kwargs or not isinstance(op.args[0], Var):
        return False
    return is_wanted_on(op.args[0].value.device.type)


def _shared(trace: Trace) -> Trace:
    """The same input is quantised once."""
    surroundings = Surroundings(trace)
    first: dict[int, Op] = {}
    renamed: dict[int, Var] = {}
    dropped: set[int] = set()
    for op in trace.ops:
        if not _is_plain(op):
            continue
        known = first.setdefault(id(op.args[0]), op)
        if known is not op and surroundings.may_move([known], op, [op.args[0]]):
            renamed.update((id(old), new) for old, new in zip(op.outputs(), known.outputs()))
            dropped.add(id(op))
    if not dropped:
        return trace

    def renaming(var: Var) -> Var:
        return renamed.get(id(var), var)

    ops = [op.map_inputs(renaming) for op in trace.ops if id(op) not in dropped]
    return trace.replace(ops=ops, output=trace.map_vars(renaming).output)


def _is_for_quantising(call: Op, surroundings: Surroundings) -> bool:
    """Whether quantising is all that the result of norm or gate is for."""
    (result,) = call.outputs()
    users = surroundings.users.get(id(result), [])
    if len(users) != 1 or id(result) in surroundings.returned or result.value.requires_grad:
        return False
    return _is_plain(users[0])


def _folded(trace: Trace) -> Trace:
    """Norms and gates that are calls of the library's kernels become arguments of `quantize_rows`."""
    surroundings = Surroundings(trace)
    makers = {id(var): op for op in trace.ops for var in op.outputs()}
    changed: dict[int, Op | None] = {}
    for op in trace.ops:
        maker = makers.get(id(op.args[0])) if _is_plain(op) else None
        arguments = None if maker is None else _arguments(maker)
        if maker is None or arguments is None or not _is_for_quantising(maker, surroundings):
            continue
        if surroundings.may_move([maker], op, list(maker.inputs())):
            changed[id(maker)] = None
            changed[id(op)] = Op(QUANTIZE, arguments, {}, op.result, op.location, op.scope)
    if not changed:
        return trace
    return trace.replace(ops=[new for op in trace.ops if (new := changed.get(id(op), op)) is not None])


def _arguments(maker: Op) -> tuple[Any, ...] | None:
    """The arguments of `quantize_rows` with this operation in it."""
    if maker.kwargs:
        return None
    if maker.target is torch.ops.thunder.rms_norm.default:
        x, weight, eps, *others = maker.args
        return None if any(others) or not isinstance(weight, Var) else (x, weight, eps)
    if maker.target is torch.ops.thunder.gated_activation.default:
        gate, up, activation = maker.args
        return gate, None, 1e-6, up, activation
    return None
