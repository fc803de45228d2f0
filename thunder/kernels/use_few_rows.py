"""Linear layers with gradients on 2 to 16 rows become `thunder::few_rows_linear`, those of one input together.

Input: a torch-level trace, after `substitute_kernels`.  Output: the same program.
"""

from __future__ import annotations

from typing import Any

from thunder.kernels import few_rows
from thunder.kernels.few_rows import FEW_ROWS_LINEAR, MOST_LAYERS
from thunder.kernels.pattern import Definitions, NormalCall
from thunder.kernels.registry import is_disabled, is_wanted_on
from thunder.kernels.substitute import Surroundings, gives_the_same
from thunder.trace import Namer, Op, Trace, Var, trace_pass


@trace_pass
def use_few_rows(trace: Trace) -> Trace:
    """Replaces linear layers whose results have gradients."""
    if is_disabled("few_rows_linear"):
        return trace
    definitions, surroundings = Definitions(trace), Surroundings(trace)
    namer = Namer({var.name for var in trace.variables()})
    made_at = {id(var): position for position, op in enumerate(trace.ops) for var in op.outputs()}
    replaced: dict[int, list[Op]] = {}
    for group in _groups(trace, definitions):
        while group:
            # Those further down are computed at the place of the first, if their weights exist there.
            first = group[0][0]
            position = surroundings.positions[id(first)]
            members = [
                (op, call)
                for op, call in group
                if all(made_at.get(id(var), -1) < position for var in op.inputs())
                and surroundings.may_move([first], op, list(op.inputs()))
            ][:MOST_LAYERS]
            call = _call(members, namer)
            if call is not None:
                replaced[id(first)] = [call]
                replaced.update((id(op), []) for op, _ in members[1:])
            group = [member for member in group if member not in members]
    if not replaced:
        return trace
    return trace.replace(ops=[new for op in trace.ops for new in replaced.get(id(op), [op])])


def _groups(trace: Trace, definitions: Definitions) -> list[list[tuple[Op, NormalCall]]]:
    """Linear layers on few rows: those of one input that all have a bias, or none."""
    groups: dict[Any, list[tuple[Op, NormalCall]]] = {}
    for op in trace.ops:
        if op.name != "linear" or not isinstance(op.result, Var) or not op.result.value.requires_grad:
            continue
        call = definitions.call(op)
        x, weight, bias = (call.arguments.get(name) for name in ("input", "weight", "bias"))
        if not isinstance(x, Var) or not isinstance(weight, Var) or not is_wanted_on(x.value.device.type):
            continue
        if bias is not None and not (isinstance(bias, Var) and bias.value.dtype is x.value.dtype):
            continue
        groups.setdefault((id(x), bias is None), []).append((op, call))
    return list(groups.values())


def _call(members: list[tuple[Op, NormalCall]], namer: Namer) -> Op | None:
    """The layers as one call, or None where the kernel does not fit."""
    first = members[0][0]
    x = members[0][1].arguments["input"]
    weights = [call.arguments["weight"] for _, call in members]
    if not few_rows.is_supported(x.value, [weight.value for weight in weights]):
        return None
    layers = [value for _, call in members for value in (call.arguments["weight"], call.arguments.get("bias"))]
    results = [op.result for op, _ in members]
    absent = [
        Var(namer.fresh("absent"), x.value.new_empty(0, requires_grad=False)) for _ in range(MOST_LAYERS - len(members))
    ]
    call = Op(FEW_ROWS_LINEAR, (x, *layers), {}, (*results, *absent), first.location, first.scope)
    return call if gives_the_same(call, [*results, *absent]) else None
