"""Splits a backward trace in two: what other stages wait for, and what only this process's optimiser waits for.

Zero-bubble schedules compute gradients of activations at once and those of weights when there is nothing else to do.
Input: a backward trace, which calls regions.  Output: two traces; the first returns the chosen outputs and all that
the second one takes, the second one the other outputs.  Regions that compute both are split as well, equal ones once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thunder.trace import Namer, Op, Region, Trace, Var


@dataclass
class SplitBackward:
    """A backward trace in two.

    Attributes:
        first: returns the outputs at `at_once`, then what `later` takes.
        later: returns the outputs at `put_off`.
        at_once, put_off: positions among the outputs of the trace.
    """

    first: Trace
    later: Trace
    at_once: list[int]
    put_off: list[int]


def split_backward(trace: Trace, at_once: Sequence[int]) -> SplitBackward | None:
    """Splits a trace; None when nothing would be left for later.

    Args:
        trace: a backward trace; its output is a tuple.
        at_once: positions of the outputs that the first part computes.
    """
    outputs = list(trace.output)
    first = [position for position in at_once if isinstance(outputs[position], Var)]
    put_off = [n for n, value in enumerate(outputs) if n not in at_once and isinstance(value, Var)]
    if not put_off:
        return None
    early, late = _Splitting(trace).divide(trace, [outputs[position] for position in first])
    wanted = [outputs[position] for position in put_off]
    passed = _needed(late, wanted, {id(var) for op in late for var in op.outputs()})
    early_outputs = tuple(outputs[position] for position in first)
    return SplitBackward(
        trace.replace(ops=early, output=(*early_outputs, *passed)),
        Trace(f"{trace.name}_weights", passed, late, tuple(wanted), trace.history),
        first,
        put_off,
    )


class _Splitting:
    """Divides traces and, once for each set of results that is needed, the regions that they call."""

    def __init__(self, trace: Trace) -> None:
        self._known: dict[tuple[int, frozenset[int]], tuple[Region, Region] | None] = {}
        self._namer = Namer({region.name for region in trace.regions()})

    def divide(self, trace: Trace, chosen: Sequence[Var]) -> tuple[list[Op], list[Op]]:
        """(the operations that the chosen values need, the others)."""
        wanted = {id(var) for var in chosen}
        taken = {var.name for var in trace.variables()}
        early: list[Op] = []
        late: list[Op] = []
        for op in reversed(trace.ops):
            if not any(id(var) in wanted for var in op.outputs()):
                late.append(op)
                continue
            parts, needed = None, frozenset[int]()
            if isinstance(op.target, Region) and isinstance(op.result, tuple):
                needed = frozenset(n for n, var in enumerate(op.result) if isinstance(var, Var) and id(var) in wanted)
                parts = self.parts_of_region(op.target, needed)
            if parts is None:
                early.append(op)
            else:
                first, rest = _calls_of_parts(op, needed, parts, taken)
                early.append(first)
                late.append(rest)
            wanted |= {id(var) for var in early[-1].inputs()}
        return early[::-1], late[::-1]

    def parts_of_region(self, region: Region, needed: frozenset[int]) -> tuple[Region, Region] | None:
        """The region as one for the needed results and one for the others; None when the first is all of it.

        The first returns the needed results, then those of its values that the second takes; inputs that the second
        takes are handed to it directly.
        """
        key = (id(region), needed)
        if key not in self._known:
            trace = region.trace
            outputs = list(trace.output)
            chosen = [outputs[number] for number in sorted(needed)]
            others = [outputs[number] for number in range(len(outputs)) if number not in needed]
            early, late = self.divide(trace, [var for var in chosen if isinstance(var, Var)])
            self._known[key] = None
            if late:
                made = {id(var) for op in late for var in op.outputs()}
                passed = _needed(late, [var for var in others if isinstance(var, Var)], made)
                inputs = {id(var) for var in trace.inputs}
                computed = [var for var in passed if id(var) not in inputs]
                names = [self._namer.fresh(f"{region.name}_{part}", numbered=False) for part in ("inputs", "weights")]
                first = Trace(names[0], list(trace.inputs), early, (*chosen, *computed))
                rest = Trace(names[1], passed, late, tuple(others))
                self._known[key] = Region(first.name, first), Region(rest.name, rest)
        return self._known[key]


def _calls_of_parts(op: Op, needed: frozenset[int], parts: tuple[Region, Region], taken: set[str]) -> tuple[Op, Op]:
    """The calls that stand for the call of a region that was divided."""
    first, rest = parts
    arguments = dict(zip(map(id, op.target.trace.inputs), op.args))
    travelling: list[Var] = []
    handed = []
    for var in rest.trace.inputs:
        if id(var) in arguments:
            handed.append(arguments[id(var)])
            continue
        name = f"{var.name}_kept"
        while name in taken:
            name += "_"
        taken.add(name)
        travelling.append(Var(name, var.value))
        handed.append(travelling[-1])
    chosen = tuple(op.result[number] for number in sorted(needed))
    others = tuple(op.result[number] for number in range(len(op.result)) if number not in needed)
    return (
        Op(first, op.args, {}, (*chosen, *travelling), op.location, op.scope),
        Op(rest, tuple(handed), {}, others, op.location, op.scope),
    )


def _needed(ops: Sequence[Op], wanted: Sequence[Var], made: set[int]) -> list[Var]:
    """The values that operations and outputs take from elsewhere."""
    found: dict[int, Var] = {}
    for var in (*(var for op in ops for var in op.inputs()), *wanted):
        if id(var) not in made:
            found.setdefault(id(var), var)
    return list(found.values())
