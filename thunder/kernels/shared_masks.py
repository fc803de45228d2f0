"""Masks that several layers use: made into numbers to be added once, not in each layer.

Input: a torch-level trace.  Output: the same program, in which a boolean mask that is handed to several calls of
attention is a tensor of the queries' dtype, zero where a key is seen.  PyTorch's attention makes that of a boolean
mask in every call; here it is made where the mask is, with the number that PyTorch would use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from thunder import _torch_compat
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings, run_on_fake_tensors
from thunder.lower.operators import aten
from thunder.trace import Namer, Op, Trace, Var, trace_pass


def mask_to_numbers(mask: torch.Tensor, dtype: torch.dtype, hidden: float) -> torch.Tensor:
    """Zero where the mask is true, `hidden` elsewhere."""
    shown = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(mask, shown, torch.full((), hidden, dtype=dtype, device=mask.device))


@trace_pass
def share_masks(trace: Trace) -> Trace:
    """Converts boolean masks that two or more calls of attention use."""
    if is_disabled("attention"):
        return trace
    definitions = Definitions(trace)
    users: dict[int, list[tuple[Op, Var]]] = {}
    for op in trace.ops:
        mask = _boolean_mask(op, definitions)
        if mask is not None:
            users.setdefault(id(mask), []).append((op, mask))
    surroundings = Surroundings(trace)
    namer = Namer({var.name for var in trace.variables()})
    inserted: dict[int, list[Op]] = {}
    calls: dict[int, Op] = {}
    for group in users.values():
        ops, mask = [op for op, _ in group], group[0][1]
        maker = definitions.makers.get(id(mask))
        if len(ops) < 2 or maker is None or not surroundings.may_move([maker], ops[-1], [mask], differentiable=False):
            continue
        hidden = _number_for_hidden(ops[0])
        if hidden is None:
            continue
        dtype = definitions.call(ops[0]).arguments["query"].value.dtype
        convert = Op(mask_to_numbers, (mask, dtype, hidden), {}, None, maker.location, maker.scope)
        convert.result = Var(namer.fresh("mask"), run_on_fake_tensors(convert))
        changed = [_with_mask(op, convert.result, definitions) for op in ops]
        if any(definitions.call(op).arguments["query"].value.dtype is not dtype for op in ops):
            continue
        if _operators(changed[0])[0] == _operators(ops[0])[0]:
            inserted.setdefault(id(maker), []).append(convert)
            calls.update((id(op), new) for op, new in zip(ops, changed))
    if not calls:
        return trace
    new_ops = [new for op in trace.ops for new in (calls.get(id(op), op), *inserted.get(id(op), ()))]
    return trace.replace(ops=new_ops)


def _boolean_mask(op: Op, definitions: Definitions) -> Var | None:
    """The boolean mask of a call of attention on tensors that kernels are wanted on."""
    if op.name != "scaled_dot_product_attention" or not isinstance(op.result, Var):
        return None
    arguments = definitions.call(op).arguments
    mask, query = arguments.get("attn_mask"), arguments.get("query")
    if not isinstance(mask, Var) or not isinstance(query, Var) or mask.value.dtype is not torch.bool:
        return None
    constant = all(type(size) is int for var in op.inputs() for size in var.value.shape)
    return mask if constant and is_wanted_on(query.value.device.type) else None


def _with_mask(op: Op, mask: Var, definitions: Definitions) -> Op:
    arguments = {**definitions.call(op).arguments, "attn_mask": mask}
    positional = tuple(arguments.pop(name) for name in ("query", "key", "value"))
    return replace(op, args=positional, kwargs={str(name): value for name, value in arguments.items()})


class _Recorded(TorchDispatchMode):
    """Notes the operators that are called, and the numbers that are made tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Any] = []
        self.numbers: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.scalar_tensor.default:
            self.numbers.append(args[0])
        elif func is not aten.where.self and func.namespace == "aten":
            self.operators.append(func)
        return func(*args, **(kwargs or {}))


def _operators(op: Op) -> tuple[list[Any], list[float]]:
    """What PyTorch runs for a call of attention, but for making numbers of the mask; the numbers that it makes."""
    mode = next(var.value.fake_mode for var in op.inputs() if _torch_compat.is_fake(var.value))
    valued = op.map_inputs(lambda var: var.value)
    with mode, _Recorded() as recorded:
        valued.target(*valued.args, **valued.kwargs)
    return recorded.operators, recorded.numbers


def _number_for_hidden(op: Op) -> float | None:
    """The number that PyTorch adds where the mask is false; None where it does not make numbers of it."""
    operators, numbers = _operators(op)
    fused = any(operator.name().startswith("aten::_scaled_dot_product") for operator in operators)
    hidden = [number for number in numbers if number != 0]
    return hidden[0] if fused and len(hidden) == 1 and len(numbers) == 2 else None
