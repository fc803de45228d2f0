"""Cuts an acquired program into stages for a pipeline.

Input: a torch-level trace and how many stages there are to be, or at which modules they begin.  Output: one trace a
stage, which takes what the stage before sends and some of the program's inputs, and returns what the stage after needs.

What can be computed from the batch and from buffers alone (masks, positions, rotations) is computed again by every
stage that uses it; what is sent is floating point.  A cut never stands within the life of memory that is changed in
place, nor where autocast or the grad mode differ from the program's beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from thunder import _torch_compat
from thunder.errors import PipelineError
from thunder.frontend.undoing import may_draw_random_numbers
from thunder.lower.operators import tensor_bytes
from thunder.lower.state import current_state, is_state_statement, states_after
from thunder.trace import Op, Region, Trace, Var, map_vars

FLOPS_PER_BYTE = 100
"""How many operations take as long as moving a byte: between a CPU's tens and a large GPU's hundreds."""


@dataclass
class Stage:
    """One stage.

    Attributes:
        trace: takes what is received, then program inputs; returns what is sent, the last stage the program's outputs.
        received: how many inputs of the trace come from the stage before.
        inputs: positions, among the program's, of the others.
        cost: estimated.
        first_scope, last_scope: module paths of its first and last operation.
    """

    trace: Trace
    received: int
    inputs: list[int]
    cost: float
    first_scope: str
    last_scope: str


def cut_into_stages(
    computation: Trace, count: int, parameters: Sequence[int], begins: Sequence[str] | None = None, *, root: str = ""
) -> list[Stage]:
    """Cuts a program.

    Args:
        computation: a torch-level trace.
        count: stages.
        parameters: positions of the inputs that are parameters.
        begins: module names at which the second and later stages begin; None for stages of about equal cost.
        root: beginning of all module paths, which names do not have.

    Raises:
        PipelineError: the program cannot be cut so.
    """
    return _Cutting(computation, parameters, root).cut(count, begins)


class _Cutting:
    def __init__(self, computation: Trace, parameters: Sequence[int], root: str) -> None:
        self.computation = computation
        self.ops = computation.ops
        self.scopes = [op.scope.removeprefix(root) for op in self.ops]
        self.made = {id(var): position for position, op in enumerate(self.ops) for var in _defined(op)}
        self.by_id = {id(var): var for var in computation.variables()}
        self.last_use = {id(var): position for position, op in enumerate(self.ops) for var in op.inputs()}
        self.last_use.update({id(var): len(self.ops) for var in computation.output_vars()})
        self.changed = {_key(var) for op in self.ops for var in op.tags.get("changes", ())}
        self.free = self._find_free({id(computation.inputs[position]) for position in parameters})
        self.costs = [_cost(op) for op in self.ops]

    def _find_free(self, parameters: set[int]) -> set[int]:
        """Values that every stage can compute for itself: of the batch and of buffers that stay as they are."""
        free = {
            id(var) for var in self.computation.inputs if id(var) not in parameters and _key(var) not in self.changed
        }
        for op in self.ops:
            if is_state_statement(op) or op.tags.get("changes") or any(isinstance(x, Region) for x in (op.target,)):
                continue
            if may_draw_random_numbers(Trace(ops=[op])):
                continue
            if all(id(var) in free for var in op.inputs()):
                free |= {id(var) for var in _defined(op) if _key(var) not in self.changed}
        return free

    # Where cuts may stand ---------------------------------------------------------------------------------------
    def crossing(self, position: int) -> list[Var] | None:
        """What a cut before `ops[position]` would send; None where there can be none."""
        found = []
        for number, defined in self.made.items():
            if defined < position <= self.last_use.get(number, -1) and number not in self.free:
                value = self.by_id[number].value
                if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                    return None
                found.append(self.by_id[number])
        return found

    def allowed(self) -> dict[int, list[Var]]:
        """What is sent, by position, wherever a cut can stand."""
        forbidden: set[int] = set()
        first: dict[Any, int] = {}
        last: dict[Any, int] = {}
        for position, op in enumerate(self.ops):
            for var in (*op.inputs(), *op.outputs()):
                if _key(var) in self.changed:
                    first.setdefault(_key(var), position)
                    last[_key(var)] = position
        for var in self.computation.output_vars():
            if _key(var) in first and id(var) in self.made:
                last[_key(var)] = len(self.ops)
        for key, position in first.items():
            forbidden.update(range(position + 1, last[key] + 1))
        start = current_state()
        states, state = states_after(self.ops, start), start
        found = {}
        for position, op in enumerate(self.ops):
            if position not in forbidden and state == start:
                sent = self.crossing(position)
                if sent:
                    found[position] = sent
            state = states.get(id(op), state)
        return found

    # Where they do stand ----------------------------------------------------------------------------------------
    def cut(self, count: int, begins: Sequence[str] | None) -> list[Stage]:
        allowed = self.allowed()
        if begins is not None:
            positions = [self._beginning(name, allowed) for name in begins]
            if positions != sorted(set(positions)):
                raise PipelineError(
                    f"the modules {list(begins)} do not begin one after the other in this program",
                    remedy="name them in the order in which they run",
                )
        else:
            positions = self._balanced(count, allowed)
        bounds = [0, *positions, len(self.ops)]
        stages: list[Stage] = []
        received: list[Var] = []
        for start, stop in zip(bounds, bounds[1:]):
            sent = allowed[stop] if stop < len(self.ops) else None
            stages.append(self._stage(start, stop, received, sent, len(stages)))
            received = sent or []
        return stages

    def _beginning(self, name: str, allowed: dict[int, list[Var]]) -> int:
        for position, scope in enumerate(self.scopes):
            if scope == name or scope.startswith(f"{name}."):
                if position in allowed:
                    return position
                raise PipelineError(
                    f"a stage cannot begin at {name!r}: values that are no activations would have to be sent, or "
                    "memory that is changed in place would be divided",
                    remedy="name another module, or leave the cuts to thunder",
                )
        raise PipelineError(
            f"a stage is to begin at {name!r}, where the program has no operation",
            remedy=f"it has some in: {', '.join(self._some_scopes())}",
        )

    def _some_scopes(self) -> list[str]:
        return list(dict.fromkeys(scope for scope in self.scopes if scope))[:30]

    def _balanced(self, count: int, allowed: dict[int, list[Var]]) -> list[int]:
        """The cuts that make the most expensive stage cheapest; few values are sent where that is possible."""
        if count == 1:
            return []
        fewest = [position for position, sent in allowed.items() if len(sent) == 1]
        candidates = fewest if len(fewest) >= count - 1 else list(allowed)
        if len(candidates) < count - 1:
            raise PipelineError(
                f"the program can be cut in {len(candidates)} places, not into {count} stages",
                remedy="use fewer stages",
            )
        total = [0.0]
        for cost in self.costs:
            total.append(total[-1] + cost)
        sending = {p: FLOPS_PER_BYTE * sum(tensor_bytes(var.value) for var in allowed[p]) for p in candidates}
        # best[p]: (most expensive stage before p, cuts before p), for as many stages as the loop has counted.
        best: dict[int, tuple[float, tuple[int, ...]]] = {p: (total[p] + sending[p], ()) for p in candidates}
        for _ in range(count - 2):
            following: dict[int, tuple[float, tuple[int, ...]]] = {}
            for position in candidates:
                choices = [
                    (max(cost, total[position] - total[before] + sending[position]), (*cuts, before))
                    for before, (cost, cuts) in best.items()
                    if before < position
                ]
                if choices:
                    following[position] = min(choices)
            best = following
        _, cuts = min((max(cost, total[-1] - total[p]), (*cuts, p)) for p, (cost, cuts) in best.items())
        return list(cuts)

    # Stages -----------------------------------------------------------------------------------------------------
    def _stage(self, start: int, stop: int, received: list[Var], sent: list[Var] | None, number: int) -> Stage:
        ops = self._again(start, stop, sent) + self.ops[start:stop]
        arrived = {id(var): _arriving(var) for var in received}

        def exchanged(var: Var) -> Var:
            return arrived.get(id(var), var)

        ops = [op.map_inputs(exchanged) for op in ops] if arrived else ops
        output = map_vars(exchanged, tuple(sent) if sent is not None else self.computation.output)
        trace = Trace(f"stage{number}", [], ops, output)
        used = {id(var) for op in ops for var in op.inputs()} | {id(var) for var in trace.output_vars()}
        positions = [position for position, var in enumerate(self.computation.inputs) if id(var) in used]
        trace.inputs = [*arrived.values(), *(self.computation.inputs[position] for position in positions)]
        scopes = [scope for scope in self.scopes[start:stop] if scope] or [""]
        cost = sum(self.costs[start:stop])
        return Stage(trace, len(arrived), positions, cost, scopes[0], scopes[-1])

    def _again(self, start: int, stop: int, sent: list[Var] | None) -> list[Op]:
        """The operations before `start` whose values the stage computes for itself."""
        wanted = {id(var) for op in self.ops[start:stop] for var in op.inputs()}
        if sent is None:
            wanted |= {id(var) for var in self.computation.output_vars()}
        again = []
        for op in reversed(self.ops[:start]):
            defined = {id(var) for var in _defined(op)}
            if defined & wanted & self.free:
                again.append(op)
                wanted |= {id(var) for var in op.inputs()}
        return again[::-1]


def _defined(op: Op) -> list[Var]:
    """The results that are new, not inputs changed in place."""
    taken = {id(var) for var in op.inputs()}
    return [var for var in op.outputs() if id(var) not in taken]


def _key(var: Var) -> Any:
    """Equal for Vars that share memory."""
    return _torch_compat.storage_key(var.value) if isinstance(var.value, torch.Tensor) else id(var)


def _arriving(var: Var) -> Var:
    """What a stage takes for a value that the stage before has sent: contiguous, the beginning of its gradients."""
    value = var.value
    with value.fake_mode:
        arrived = torch.empty(tuple(value.shape), dtype=value.dtype, device=value.device)
    return Var(var.name, arrived.requires_grad_(torch.is_grad_enabled()))


def _cost(op: Op) -> float:
    """Operations of an `Op`, with those that its memory traffic takes as long as."""
    if is_state_statement(op):
        return 0.0
    regions = [x for x in (op.target, *op.args) if isinstance(x, Region)]
    if regions:
        return sum(_cost(inner) for region in regions for inner in region.trace.ops)
    tensors = {id(var): var for var in (*op.inputs(), *op.outputs()) if isinstance(var.value, torch.Tensor)}
    if not tensors:
        return 0.0
    moved = sum(tensor_bytes(var.value) for var in tensors.values())
    mode = next(iter(tensors.values())).value.fake_mode
    clean = replace(op, args=map_vars(_detached, op.args), kwargs=map_vars(_detached, op.kwargs))
    try:
        with torch.no_grad(), mode, FlopCounterMode(display=False) as counter:
            clean.target(*clean.args, **clean.kwargs)
    except Exception:  # a boundary: an estimate must not fail where the program works
        return float(FLOPS_PER_BYTE * moved)
    return float(counter.get_total_flops() + FLOPS_PER_BYTE * moved)


def _detached(var: Var) -> Any:
    return var.value.detach() if isinstance(var.value, torch.Tensor) else var.value
