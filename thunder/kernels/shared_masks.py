"""Masks that several layers use: made into numbers to be added once, not in each layer.

Input: a torch-level trace.  Output: the same program, in which a boolean mask that is handed to several calls of
attention is a tensor of the queries' dtype, zero where a key is seen.  PyTorch's attention makes that of a boolean
mask in every call; here it is made where the mask is, with the number that PyTorch would use.  Masks that are the same
for all queries (padding) have one row, and no gradient: cuDNN then takes 142 us in place of 166 for 32x512 on an H100.
"""

from __future__ import annotations

import torch

from thunder import _torch_compat
from thunder.kernels.attention import drop_unused
from thunder.kernels.attention_backends import Backends, attention_call, with_arguments
from thunder.kernels.constant_masks import ConstantMasks
from thunder.kernels.fake_values import run_on_fake_tensors
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import is_disabled
from thunder.kernels.substitute import Surroundings
from thunder.lower.state import current_state, is_state_statement
from thunder.trace import Namer, Op, Trace, Var, trace_pass


def mask_to_numbers(mask: torch.Tensor, dtype: torch.dtype, hidden: float, shape: tuple[int, ...]) -> torch.Tensor:
    """Zero where the mask is true, `hidden` elsewhere, expanded to `shape`."""
    shown = torch.zeros((), dtype=dtype, device=mask.device)
    numbers = torch.where(mask, shown, torch.full((), hidden, dtype=dtype, device=mask.device))
    return numbers.expand(shape)


@trace_pass
def share_masks(trace: Trace) -> Trace:
    """Converts boolean masks that two or more calls of attention use."""
    if is_disabled("attention") or _has_autocast(trace):
        return trace
    definitions = Definitions(trace)
    users: dict[int, list[tuple[Op, Var]]] = {}
    for op in trace.ops:
        mask = _boolean_mask(op, definitions)
        if mask is not None:
            users.setdefault(id(mask), []).append((op, mask))
    surroundings, backends = Surroundings(trace), Backends()
    constant_masks = ConstantMasks(definitions, surroundings)
    namer = Namer({var.name for var in trace.variables()})
    inserted: dict[int, list[Op]] = {}
    calls: dict[int, Op] = {}
    for group in users.values():
        ops, mask = [op for op, _ in group], group[0][1]
        maker = definitions.makers.get(id(mask))
        if len(ops) < 2 or maker is None:
            continue
        narrow, steps = mask, [maker]
        if not any(op.result.value.requires_grad for op in ops):
            narrow, steps = _one_row(mask, ops[0], definitions, constant_masks)
        if not surroundings.may_move(steps, ops[-1], [mask, narrow], differentiable=False):
            continue
        arguments = [definitions.call(op).arguments for op in ops]
        dtype, hidden = arguments[0]["query"].value.dtype, backends.number_for_hidden(ops[0])
        if any(_is_graph_cut(op) for op in ops):
            continue
        if hidden is None or any(call["query"].value.dtype is not dtype for call in arguments):
            continue
        call_of_conversion = narrow, dtype, hidden, tuple(mask.value.shape)
        convert = Op(mask_to_numbers, call_of_conversion, {}, None, maker.location, maker.scope)
        convert.result = Var(namer.fresh("mask"), run_on_fake_tensors(convert))
        changed = [with_arguments(op, {**call, "attn_mask": convert.result}) for op, call in zip(ops, arguments)]
        if all(backends.kernel(new) is backends.kernel(op) for new, op in zip(changed, ops)):
            inserted.setdefault(id(maker), []).append(convert)
            calls.update((id(op), new) for op, new in zip(ops, changed))
    if not calls:
        return trace
    new_ops = [new for op in trace.ops for new in (calls.get(id(op), op), *inserted.get(id(op), ()))]
    return drop_unused(trace.replace(ops=new_ops))


def _one_row(mask: Var, user: Op, definitions: Definitions, constant_masks: ConstantMasks) -> tuple[Var, list[Op]]:
    """The mask before it was expanded, when that has one row for all queries, else the mask; what makes the mask of it.

    Parts of a conjunction that hide nothing count as expansion.
    """
    steps: list[Op] = []
    var = mask
    while True:
        op = definitions.makers.get(id(var))
        call = definitions.call(op) if op is not None else None
        operands = [value for value in call.arguments.values() if isinstance(value, Var)] if call else []
        if op is not None and call is not None and call.name == "expand":
            var = operands[0]
        elif op is not None and call is not None and call.name == "bitwise_and" and len(operands) == 2:
            kept = [part for part in operands if not constant_masks.hides_nothing(part, user)]
            if len(kept) != 1:
                break
            var = kept[0]
        else:
            break
        steps.append(op)
    maker = definitions.makers.get(id(var))
    shape, wide = var.value.shape, mask.value.shape
    if maker is None or len(shape) != len(wide) or shape[-2:] != (1, wide[-1]) or wide[-2] == 1:
        return mask, [definitions.makers[id(mask)]]
    return var, [maker, *reversed(steps)]


def _has_autocast(trace: Trace) -> bool:
    """Whether calls may work in another dtype than their arguments': PyTorch then chooses by that one."""
    grad_mode = _torch_compat.set_grad_enabled_statement()
    statements = any(is_state_statement(op) and op.target is not grad_mode for op in trace.ops)
    return statements or any(enabled for _, enabled, _ in current_state().autocast)


def _is_graph_cut(op: Op) -> bool:
    """Whether the call runs without gradients on values that have some: what PyTorch chooses depends on that."""
    return not op.result.value.requires_grad and any(var.value.requires_grad for var in op.inputs())


def _boolean_mask(op: Op, definitions: Definitions) -> Var | None:
    """The boolean mask of a call of attention on tensors that kernels are wanted on."""
    arguments = attention_call(op, definitions)
    mask = None if arguments is None else arguments.get("attn_mask")
    return mask if isinstance(mask, Var) and mask.value.dtype is torch.bool else None
