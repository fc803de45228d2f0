"""Which values of a functional trace share memory with its outputs.

Merging two such values, or putting a constant in the place of one, would make outputs share memory that do not.
"""

from __future__ import annotations

from thunder.lower.operators import is_view
from thunder.trace import Trace, Var


def escaping_values(trace: Trace) -> set[int]:
    """Ids of the Vars that are outputs, or values that outputs are views of."""
    escaping = {id(var) for var in trace.output_vars()}
    for op in reversed(trace.ops):
        if is_view(op) and any(id(var) in escaping for var in op.outputs()):
            viewed = next(op.inputs(), None)
            if viewed is not None:
                escaping.add(id(viewed))
    return escaping


def returned_values(trace: Trace) -> set[int]:
    """Ids of the Vars that are outputs."""
    return {id(var) for var in trace.output_vars()}


def defined_values(trace: Trace) -> dict[int, Var]:
    """The Vars that operations define, by id."""
    return {id(var): var for op in trace.ops for var in op.outputs()}
