"""Linear layers on few rows become `thunder::gemv`, and the RMSNorm before them a part of it.

Input: a torch-level trace, after `substitute_kernels` and `merge_projections`.  Output: the same program.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from thunder import _torch_compat
from thunder.kernels import gemv
from thunder.kernels.attention import drop_unused
from thunder.kernels.gemv import GEMV, GEMV_GATED
from thunder.kernels.launch import rows_of
from thunder.kernels.merged_linear import MERGED_LINEAR
from thunder.kernels.norm_folding import NormPlaces, norm_places, register_norm_folding
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import active_kernels, is_disabled, is_wanted_on
from thunder.kernels.rms_norm import RMS_NORM
from thunder.kernels.substitute import Surroundings, gives_the_same, substitute_kernel
from thunder.trace import Op, Trace, Var, iterate_vars, trace_pass

# Norms before products of up to so many rows are computed by the products themselves; on an H100 a kernel for the norm
# of several rows and one for the product take less time together.
MOST_ROWS_WITH_NORM = 1

register_norm_folding(GEMV, NormPlaces(0, 4, 5, (1, 2), (None,) * 5 + (1e-6, "none")))
register_norm_folding(GEMV_GATED, NormPlaces(0, 3, 4, (1, 2), (None,) * 4 + (1e-6, "silu")))
register_norm_folding(MERGED_LINEAR, NormPlaces(0, 3, 4, (1, 2), (None, None, (), None, 1e-6)))


@trace_pass
def use_gemv(trace: Trace) -> Trace:
    """Replaces linear layers without gradients on at most `MOST_ROWS` rows."""
    if is_disabled("gemv"):
        return trace
    definitions = Definitions(trace)
    ops = [_as_gemv(op, definitions) for op in trace.ops]
    changed = any(new is not old for new, old in zip(ops, trace.ops))
    trace = trace.replace(ops=ops) if changed else trace
    rms_norm = next((kernel for kernel in active_kernels(is_fused=False) if kernel.name == "rms_norm"), None)
    if rms_norm is not None:
        trace = _fold_norms(substitute_kernel(trace, rms_norm, _is_for_gemv))
    return _mark_constant_weights(trace)


def _is_for_gemv(norm: Op, surroundings: Surroundings) -> bool:
    """Whether only kernels for few rows use the norm.

    They compute it themselves where they can.  Elsewhere it is a kernel of its own, which, unlike a fuser's, begins
    while the one before is running.
    """
    (result,) = norm.outputs()
    users = surroundings.users.get(id(result), [])
    rows = rows_of(result.value)
    if not users or rows > gemv.MOST_ROWS or (rows == 1 and result.value.shape[-1] > gemv.LONGEST_RESIDENT):
        return False
    return id(result) not in surroundings.returned and all(
        norm_places(user.target) is not None and user.args[0] is result for user in users
    )


def _as_gemv(op: Op, definitions: Definitions) -> Op:
    if op.name != "linear" or not isinstance(op.result, Var):
        return op
    arguments = definitions.call(op).arguments
    x, weight, bias = arguments.get("input"), arguments.get("weight"), arguments.get("bias")
    if not isinstance(x, Var) or not isinstance(weight, Var) or op.result.value.requires_grad:
        return op
    if not is_wanted_on(x.value.device.type) or not gemv.is_supported(x.value, weight.value):
        return op
    call = replace(op, target=GEMV, args=(x, weight, bias), kwargs={})
    return call if gives_the_same(call, [op.result]) else op


def _mark_constant_weights(trace: Trace) -> Trace:
    """Tells the kernels of weights, biases and norms that are inputs of the program which nothing in it changes."""
    written = Surroundings(trace).written_storages()
    constant = {
        id(var) for var in trace.inputs if var.is_tensor and _torch_compat.storage_key(var.value) not in written
    }
    ops = []
    for op in trace.ops:
        places = norm_places(op.target)
        if places is not None and "constant_weights" not in op.kwargs:
            # Besides x and the residual, everything that these take is read ahead.
            positions = (*places.weights, places.norm_weight)
            read = iterate_vars(tuple(op.args[position] for position in positions if position < len(op.args)))
            if all(id(var) in constant for var in read):
                op = replace(op, kwargs={**op.kwargs, "constant_weights": True})
        ops.append(op)
    return trace.replace(ops=ops) if any(new is not old for new, old in zip(ops, trace.ops)) else trace


def _takes_norm(op: Op, arguments: list[Any], places: NormPlaces) -> bool:
    """Whether the kernels for so many rows compute the norm; only those of this library do it for more than one."""
    x = arguments[places.x].value
    rows = rows_of(x)
    if rows == 1:
        return gemv.is_supported(x)
    if rows > MOST_ROWS_WITH_NORM or x.dtype is torch.float16:  # x * weight may be larger than float16 can hold
        return False
    if op.target not in (GEMV, GEMV_GATED, MERGED_LINEAR):
        return False
    weights = [var.value for var in iterate_vars(arguments[places.x + 1]) if var.value.dim() == 2]
    return gemv.is_supported(x, *weights, gated=op.target is GEMV_GATED)


def _fold_norms(trace: Trace) -> Trace:
    """RMSNorms whose result only the kernels above use become part of them."""
    definitions = Definitions(trace)
    surroundings = Surroundings(trace)
    changed: dict[int, Op] = {}
    for op in trace.ops:
        places = norm_places(op.target)
        if places is None:
            continue
        arguments = [*op.args, *places.defaults[len(op.args) :]]
        x = arguments[places.x]
        norm = definitions.makers.get(id(x)) if isinstance(x, Var) else None
        if norm is None or norm.target is not RMS_NORM or arguments[places.norm_weight] is not None or norm.kwargs:
            continue
        if not _takes_norm(op, arguments, places):
            continue
        source, norm_weight, eps, *others = norm.args
        if any(others) or not isinstance(norm_weight, Var) or not surroundings.may_move([norm], op, [source]):
            continue
        arguments[places.x], arguments[places.norm_weight], arguments[places.eps] = source, norm_weight, eps
        changed[id(op)] = replace(op, args=tuple(arguments))
    if not changed:
        return trace
    folded = trace.replace(ops=[changed.get(id(op), op) for op in trace.ops])
    used = {id(var) for op in folded.ops for var in op.inputs()} | {id(var) for var in folded.output_vars()}
    kept = [op for op in folded.ops if op.target is not RMS_NORM or any(id(var) in used for var in op.outputs())]
    return drop_unused(folded.replace(ops=kept))
