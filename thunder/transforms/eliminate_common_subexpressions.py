"""Computes once what a trace computes several times."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from thunder.lower.operators import is_pure, is_view
from thunder.trace import Op, Trace, Var, iterate_vars, map_vars, trace_pass
from thunder.transforms.aliases import escaping_values, returned_values


@trace_pass
def eliminate_common_subexpressions(trace: Trace) -> Trace:
    """Replaces a pure operation by the result of an equal earlier one.

    Equal means: same operator, same constants with their types, same values.  Values that outputs share memory with
    stay apart, as they do in the program.
    """
    escaping, returned = escaping_values(trace), returned_values(trace)
    replaced: dict[int, Var] = {}
    seen: dict[Hashable, Op] = {}
    kept: list[Op] = []
    for op in trace.ops:
        if any(id(var) in replaced for var in op.inputs()):
            op = op.map_inputs(lambda var: replaced.get(id(var), var))
        if is_pure(op):
            key = (op.target, _key(op.args), _key(op.kwargs))
            earlier = seen.get(key)
            apart = returned if is_view(op) else escaping
            if earlier is None:
                seen[key] = op
            elif not any(id(var) in apart for var in op.outputs()):
                pairs = zip(iterate_vars(op.result), iterate_vars(earlier.result))
                replaced.update((id(mine), theirs) for mine, theirs in pairs)
                continue
        kept.append(op)
    if not replaced:
        return trace
    return trace.replace(ops=kept, output=map_vars(lambda var: replaced.get(id(var), var), trace.output))


def _key(value: Any) -> Hashable:
    """A value's key: equal keys stand for interchangeable arguments."""
    if isinstance(value, (Var, torch.Tensor)):
        return ("value", id(value))
    if isinstance(value, (tuple, list)):
        return (type(value), *[_key(item) for item in value])
    if isinstance(value, dict):
        return (dict, *[(name, _key(item)) for name, item in sorted(value.items())])
    if isinstance(value, float):
        return (float, repr(value))  # tells 0.0 from -0.0 and knows nan
    return (type(value), value)
