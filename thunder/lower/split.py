"""Splits a block's joint trace into a forward and a backward trace.

Input: the joint trace, in which the operations of the backward part carry the tag `backward`.  Output: a forward
trace `(inputs...) -> (results..., saved...)` and a backward trace `(saved..., tangents...) -> (gradients...)`.  What
is saved is what the backward part uses: choosing it is the work of passes on the joint trace.
"""

from __future__ import annotations

from dataclasses import dataclass

from thunder.lower.block import Block
from thunder.trace import Trace, Var, iterate_vars


@dataclass
class SplitBlock:
    """A block's two traces.

    Attributes:
        block: what they were made from.
        forward: returns the block's results, then those of `saved` that are neither inputs nor results.
        backward: takes `saved`, then the tangents; None when there are no gradients.
        saved: what `backward` takes, as positions among the forward trace's inputs and outputs, in that order.
        computed: values that `forward` returns in addition to the results.
    """

    block: Block
    forward: Trace
    backward: Trace | None
    saved: list[int]
    computed: list[Var]


def split_joint(block: Block, joint: Trace) -> SplitBlock:
    """The forward and backward traces of a block whose joint trace is (an improved form of) `block.joint`."""
    results, gradients = joint.output
    inputs, tangents = joint.inputs[: block.input_count], joint.inputs[block.input_count :]
    forward_ops = [op for op in joint.ops if not op.tags.get("backward")]
    backward_ops = [op for op in joint.ops if op.tags.get("backward")]
    if not gradients:
        forward = Trace(f"{block.name}_forward", inputs, forward_ops, tuple(results), joint.history)
        return SplitBlock(block, forward, None, [], [])
    known = {id(var) for op in backward_ops for var in op.outputs()} | {id(var) for var in tangents}
    saved: dict[int, Var] = {}
    for var in [var for op in backward_ops for var in op.inputs()] + list(iterate_vars(gradients)):
        if id(var) not in known:
            saved.setdefault(id(var), var)
    provided = {id(var) for var in inputs} | {id(var) for var in iterate_vars(results)}
    computed = [var for key, var in saved.items() if key not in provided]
    forward = Trace(f"{block.name}_forward", inputs, forward_ops, (*results, *computed), joint.history)
    backward = Trace(
        f"{block.name}_backward", [*saved.values(), *tangents], backward_ops, tuple(gradients), joint.history
    )
    positions = {id(var): position for position, var in enumerate((*inputs, *results, *computed))}
    return SplitBlock(block, forward, backward, [positions[key] for key in saved], computed)
