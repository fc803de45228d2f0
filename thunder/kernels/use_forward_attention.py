"""Calls of attention that `thunder::forward_attention` does faster than PyTorch's kernels.

Input: a torch-level trace, after `share_masks` and `lay_out_queries`.  Output: the same program.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from thunder.kernels import forward_attention
from thunder.kernels.attention_backends import attention_call
from thunder.kernels.forward_attention import FORWARD_ATTENTION
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import current_mode, is_disabled
from thunder.kernels.substitute import gives_the_same
from thunder.trace import Op, Trace, Var, trace_pass

# Up to which lengths the kernel is used: where it was measured, on an H100.
LONGEST_WITH_ROW = 512  # a mask of one row, 64 numbers a head, 32x512 (BERT large): 123 us against PyTorch's 145
LONGEST_SMALL = 16  # any mask that it takes: 3 us against 8 for 1x10 (12 heads of 128), 3 against 11 for 1x8


@trace_pass
def use_forward_attention(trace: Trace) -> Trace:
    """Replaces attention without gradients: of few tokens, or with a mask that is the same for all queries."""
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
    causal, scale = arguments.get("is_causal", False), arguments.get("scale")
    if type(causal) is not bool or not isinstance(scale, (float, type(None))) or arguments.get("dropout_p", 0.0) != 0:
        return op
    if mask is not None and (causal or not isinstance(mask, Var) or not _has_one_row(mask.value, query.value.dtype)):
        return op
    if query.value.shape[1] != key.value.shape[1] and not arguments.get("enable_gqa", False):
        return op
    tensors = query.value, key.value, value.value
    row = mask.value if mask is not None else None
    if not forward_attention.is_supported(*tensors, row) or not is_fastest(*tensors[:2], row):
        return op
    call = replace(op, target=FORWARD_ATTENTION, args=(query, key, value, mask, causal, scale), kwargs={})
    return call if gives_the_same(call, [op.result]) else op


def _has_one_row(mask: torch.Tensor, dtype: torch.dtype) -> bool:
    return mask.dtype is dtype and mask.dim() == 4 and (mask.stride(2) == 0 or mask.shape[2] == 1)


def is_fastest(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether the call is like those for which the kernel was measured to be faster than PyTorch's."""
    longest = max(query.shape[2], key.shape[2])
    if current_mode() == "always" or longest <= LONGEST_SMALL:
        return True
    return mask is not None and query.shape[3] == 64 and query.shape[2] >= 64 and longest <= LONGEST_WITH_ROW
