"""Calls of attention that `thunder::forward_attention` does faster than PyTorch's kernels.

Input: a torch-level trace, after `share_masks` and `lay_out_queries`.  Output: the same program.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from thunder.kernels import forward_attention
from thunder.kernels.attention_backends import attention_call
from thunder.kernels.forward_attention import FORWARD_ATTENTION
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import current_mode, is_disabled
from thunder.kernels.substitute import gives_the_same
from thunder.trace import Op, Trace, Var, trace_pass

# The longest sequence for which the kernel was measured to be the faster one, with a mask of one row (H100, 64 a head).
LONGEST_MEASURED = 1024


@trace_pass
def use_forward_attention(trace: Trace) -> Trace:
    """Replaces attention without gradients whose mask is the same for all queries."""
    if is_disabled("forward_attention"):
        return trace
    definitions = Definitions(trace)
    ops = [_replaced(op, definitions) for op in trace.ops]
    return trace.replace(ops=ops) if any(new is not old for new, old in zip(ops, trace.ops)) else trace


def _replaced(op: Op, definitions: Definitions) -> Op:
    arguments = attention_call(op, definitions)
    if arguments is None or not isinstance(op.result, Var) or op.result.value.requires_grad:
        return op
    query, key, value, mask = arguments["query"], arguments["key"], arguments["value"], arguments.get("attn_mask")
    scale, others = arguments.get("scale"), (arguments.get("is_causal", False), arguments.get("dropout_p", 0.0))
    if not isinstance(mask, Var) or any(others) or not isinstance(scale, (float, type(None))):
        return op
    if mask.value.dtype is not query.value.dtype or not _has_one_row(mask.value):
        return op
    values = query.value, key.value, value.value, mask.value
    if not forward_attention.is_supported(*values) or not is_fastest(*values[:2]):
        return op
    if query.value.shape[1] != key.value.shape[1] and not arguments.get("enable_gqa", False):
        return op
    call = replace(op, target=FORWARD_ATTENTION, args=(query, key, value, mask, False, scale), kwargs={})
    return call if gives_the_same(call, [op.result]) else op


def _has_one_row(mask: Any) -> bool:
    return mask.dim() == 4 and (mask.stride(2) == 0 or mask.shape[2] == 1)


def is_fastest(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether the kernel was measured to be faster than PyTorch's for such a call with a mask of one row."""
    if current_mode() == "always":
        return True
    return query.shape[3] == 64 and 64 <= query.shape[2] and key.shape[2] <= LONGEST_MEASURED
