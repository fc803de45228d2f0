"""Chooses what a training program saves for its backward part, and what it computes again.

Input: a joint trace, in which the operations of the backward part carry the tag `backward`.  Output: the same with
copies of forward operations in the backward part, so that fewer bytes pass from forward to backward.

The choice is a minimum cut.  Each forward value is a pair of nodes joined by an edge whose capacity is what saving it
costs, in bytes; a value that can be computed again gets its inputs' values through edges of infinite capacity; a value
that cannot, and every input, is fed by the source; the values that backward uses drain into the sink.  The cheapest
set of edges that separates source from sink is what to save.

What may be computed again: views, conversions and pointwise operations.  What may not: matrix products, convolutions,
attention, reductions, gathers, and anything random.  Values made in a checkpointed region (tag `recompute`) are
computed again whatever they cost, except random ones, which are saved so that they are drawn once.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch

from thunder.lower.operators import is_aten, is_pure, is_random, is_view, tensor_bytes
from thunder.trace import Namer, Op, Trace, Var, iterate_vars, trace_pass

# Operators that are as cheap as pointwise ones without being tagged so by PyTorch.
_CHEAP_NAMES = frozenset(
    {
        "aten::_to_copy", "aten::clone", "aten::full", "aten::full_like", "aten::zeros", "aten::zeros_like",
        "aten::ones", "aten::ones_like", "aten::arange", "aten::scalar_tensor", "aten::lift_fresh_copy", "aten::cat",
        "aten::stack", "aten::slice_scatter", "aten::select_scatter", "aten::constant_pad_nd", "aten::triu",
        "aten::tril", "aten::iota",
        "aten::where", "aten::masked_fill", "aten::copy", "aten::new_zeros", "aten::new_ones", "aten::new_full",
        "prims::convert_element_type", "prims::iota", "prims::broadcast_in_dim", "aten::empty_like", "aten::empty",
    }
)  # fmt: skip


@trace_pass
def rematerialise(trace: Trace, *, transient: frozenset[int] = frozenset()) -> Trace:
    """Moves the border between forward and backward to where the fewest bytes cross it.

    Args:
        trace: a joint trace.
        transient: numbers of the inputs that die with the forward part unless they are saved; the others (parameters,
            buffers) live on anyway and cost nothing to keep.
    """
    backward = [op for op in trace.ops if op.tags.get("backward")]
    if not backward:
        return trace
    forward = [op for op in trace.ops if not op.tags.get("backward")]
    results, gradients = trace.output
    made = {id(var): op for op in forward for var in op.outputs()}
    used = {id(var): var for op in backward for var in op.inputs() if id(var) in made}
    used |= {id(var): var for var in iterate_vars(gradients) if id(var) in made}
    if not used:
        return trace
    costs = {id(var): tensor_bytes(var.value) if number in transient else 0 for number, var in enumerate(trace.inputs)}
    saved = _minimum_cut(costs, forward, used, results)
    if all(key in saved for key in used):
        return trace
    return _recompute(trace, forward, backward, made, saved)


def _minimum_cut(costs: dict[int, int], forward: list[Op], used: dict[int, Var], results: Any) -> set[int]:
    """Ids of the values to save; `costs` are those of keeping the inputs.

    Every value costs a byte more than it is large, so that of equal cuts the one with fewer values is found.
    """
    networkx = importlib.import_module("networkx")  # takes a tenth of a second, which inference does not need
    outside = _used_outside_of_checkpoints(forward, results)
    graph: Any = networkx.DiGraph()
    for key, cost in costs.items():
        graph.add_edge("source", ("in", key))
        graph.add_edge(("in", key), ("out", key), capacity=cost + 1)
    for op in forward:
        again = _may_be_computed_again(op)
        for var in op.outputs():
            node = ("in", id(var))
            if op.tags.get("recompute") and again and id(var) not in outside:
                graph.add_edge(node, ("out", id(var)))
            else:
                graph.add_edge(node, ("out", id(var)), capacity=tensor_bytes(var.value) + 1)
            inputs = list(op.inputs())
            if not again:
                graph.add_edge("source", node)
            for other in inputs if again else ():
                graph.add_edge(("out", id(other)), node)
    for key in used:
        graph.add_edge(("out", key), "sink")
    _, (reachable, _) = networkx.minimum_cut(graph, "source", "sink")
    return {key for kind, key in reachable - {"source"} if kind == "in" and ("out", key) not in reachable}


def _used_outside_of_checkpoints(forward: Iterable[Op], results: Any) -> set[int]:
    """Values that a checkpointed region hands out: keeping them is their users' affair."""
    used = {id(var) for var in iterate_vars(results)}
    return used | {id(var) for op in forward if not op.tags.get("recompute") for var in op.inputs()}


def _may_be_computed_again(op: Op) -> bool:
    if not is_pure(op) or is_random(op):
        return False
    return bool(op.tags.get("recompute")) or is_view(op) or _is_cheap(op)


def _is_cheap(op: Op) -> bool:
    return is_aten(op.target) and (torch.Tag.pointwise in op.target.tags or op.target._schema.name in _CHEAP_NAMES)


def _recompute(trace: Trace, forward: list[Op], backward: list[Op], made: dict[int, Op], saved: set[int]) -> Trace:
    """Copies into the backward part what it needs and is not saved, each just before its first use."""
    namer = Namer({var.name for var in trace.variables()})
    copies: dict[int, Var] = {}
    ops: list[Op] = list(forward)

    def available(var: Var) -> Var:
        """The Var under which backward knows a forward value, computing it again when needed."""
        if id(var) in copies:
            return copies[id(var)]
        if id(var) in saved or id(var) not in made:
            return var
        pending = [made[id(var)]]
        while pending:  # depth first without recursion: chains may be long
            op = pending[-1]
            missing = [
                made[id(other)]
                for other in op.inputs()
                if id(other) in made and id(other) not in saved and id(other) not in copies
            ]
            if missing:
                pending.append(missing[0])
                continue
            pending.pop()
            if any(id(out) in copies for out in op.outputs()):
                continue
            for out in op.outputs():
                copies[id(out)] = Var(namer.fresh("r"), out.value)
            copy = op.map_inputs(lambda other: copies.get(id(other), other))
            copy.result = _mapped(op.result, copies)
            copy.tags = {**op.tags, "backward": True, "recomputed": True}
            ops.append(copy)
        return copies[id(var)]

    for op in backward:
        mapped = {id(var): available(var) for var in op.inputs()}
        ops.append(op.map_inputs(lambda var, mapped=mapped: mapped[id(var)]))  # type: ignore[misc]
    results, gradients = trace.output
    return trace.replace(ops=ops, output=(results, tuple(available(var) for var in gradients)))


def _mapped(result: Any, copies: dict[int, Var]) -> Any:
    if isinstance(result, tuple):
        return tuple(_mapped(part, copies) for part in result)
    return copies[id(result)] if isinstance(result, Var) else result
