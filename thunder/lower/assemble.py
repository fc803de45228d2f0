"""Puts the traces of blocks together: the program's forward trace and its backward trace.

Input: a `Lowered` program and for each block its split traces as regions.  Output: two traces that call them:

    forward(inputs...) -> (results that are outputs..., saved values...)
    backward(saved values..., tangents...) -> (gradients of the trainable inputs...)

The backward program is reverse mode over blocks: it calls the blocks' backward regions in reverse order and adds up
the gradients of values that are used more than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thunder.lower.operators import aten
from thunder.lower.program import Call, Lowered, View
from thunder.lower.split import SplitBlock
from thunder.trace import Namer, Op, Region, Trace, Var


@dataclass
class BlockRegions:
    """A split block with the regions that stand for its traces in programs."""

    split: SplitBlock
    forward: Region
    backward: Region | None


@dataclass
class Assembled:
    """The traces of a whole program.

    Attributes:
        forward: see the module's docstring.
        backward: None when nothing is trainable.
        outputs: Vars that `forward` returns first, without the saved values.
        saved: Vars of the forward program that `backward` takes: inputs, then outputs, then `computed`.
        computed: the part of `saved` that `forward` returns after `outputs`.
        tangents: Vars of `backward` that stand for the gradients of `lowered.differentiable`.
    """

    forward: Trace
    backward: Trace | None
    outputs: list[Var]
    saved: list[Var]
    computed: list[Var]
    tangents: list[Var]


def make_regions(split: SplitBlock) -> BlockRegions:
    """Regions for the traces of a block."""
    backward = Region(split.backward.name, split.backward) if split.backward is not None else None
    return BlockRegions(split, Region(split.forward.name, split.forward), backward)


def output_vars(lowered: Lowered) -> list[Var]:
    """The distinct results that the program's outputs need."""
    inputs = {id(var) for var in lowered.inputs}
    found: dict[int, Var] = {}
    for output in lowered.outputs:
        var = output.base if isinstance(output, View) else output
        if isinstance(var, Var) and id(var) not in inputs:
            found[id(var)] = var
    return list(found.values())


def assemble(lowered: Lowered, blocks: Mapping[int, BlockRegions], name: str) -> Assembled:
    """The program's traces; `blocks` is by `id(block)`."""
    taken = {var.name for call in lowered.calls for var in call.results} | {var.name for var in lowered.inputs}
    namer = Namer(taken)
    ops: list[Op] = []
    saved_of_call: list[list[Var]] = []
    kept = _Kept(lowered, namer)
    for call in lowered.calls:
        regions = blocks[id(call.block)]
        split = regions.split
        extra = [Var(namer.fresh("saved"), var.value) for var in split.computed]
        ops.append(Op(regions.forward, tuple(call.inputs), {}, (*call.results, *extra), None, call.scope))
        known = {id(var): mine for var, mine in zip(split.forward.inputs, call.inputs)}
        known |= {id(var): mine for var, mine in zip(split.forward.output, (*call.results, *extra))}
        saved_of_call.append([kept.unchanged(known[id(var)]) for var in split.saved])
    ops += kept.copies
    ops += [Op(aten.copy_.default, (var, new_value), {}, var) for var, new_value in lowered.changed]
    outputs = output_vars(lowered)
    if not lowered.trainable:
        return Assembled(Trace(name, list(lowered.inputs), ops, tuple(outputs)), None, outputs, [], [], [])
    reverse = _Reverse(namer)
    tangents = [reverse.start(var) for var in lowered.differentiable]
    for call, values in zip(reversed(lowered.calls), reversed(saved_of_call)):
        reverse.call(call, blocks[id(call.block)], values)
    saved = list({id(var): var for values in saved_of_call for var in values}.values())
    used = {id(var) for op in reverse.ops for var in op.inputs()}
    saved = [var for var in saved if id(var) in used]
    inputs = {id(var) for var in lowered.inputs}
    provided = inputs | {id(var) for var in outputs}
    computed = [var for var in saved if id(var) not in provided]
    saved.sort(key=lambda var: 0 if id(var) in inputs else 1 if id(var) in provided else 2)
    gradients = tuple(reverse.gradients.get(id(var)) for var in lowered.trainable)
    forward = Trace(name, list(lowered.inputs), ops, (*outputs, *computed))
    backward = Trace("backward", [*saved, *tangents], reverse.ops, gradients)
    return Assembled(forward, backward, outputs, saved, computed, tangents)


class _Kept:
    """Copies of inputs that the backward program needs as they were before the forward program changes them."""

    def __init__(self, lowered: Lowered, namer: Namer) -> None:
        self._changed = {id(var) for var, _ in lowered.changed}
        self._namer = namer
        self._copy_of: dict[int, Var] = {}
        self.copies: list[Op] = []

    def unchanged(self, var: Var) -> Var:
        """The Var under which the value is saved."""
        if id(var) not in self._changed:
            return var
        copy = self._copy_of.get(id(var))
        if copy is None:
            copy = self._copy_of[id(var)] = Var(self._namer.fresh("saved"), var.value)
            self.copies.append(Op(aten.clone.default, (var,), {}, copy))
        return copy


class _Reverse:
    """Reverse mode over calls of blocks.

    Attributes:
        ops: the backward program.
        gradients: the gradient of each Var of the forward program, as far as it is known, by `id(var)`.
    """

    def __init__(self, namer: Namer) -> None:
        self.ops: list[Op] = []
        self.gradients: dict[int, Var] = {}
        self._namer = namer

    def start(self, var: Var) -> Var:
        """A Var for the gradient of an output of the program, which comes from outside."""
        tangent = Var(self._namer.fresh(f"grad_{var.name}", numbered=False), var.value)
        self.gradients[id(var)] = tangent
        return tangent

    def call(self, call: Call, regions: BlockRegions, saved: Sequence[Var]) -> None:
        """Adds the gradients that flow through one call."""
        block = call.block
        if regions.backward is None:
            return
        differentiable = [var for var, wanted in zip(call.results, block.differentiable) if wanted]
        if not any(id(var) in self.gradients for var in differentiable):
            return
        tangents = [self.gradients.get(id(var)) or self._zeros(var) for var in differentiable]
        inputs = [call.inputs[number] for number in block.gradients]
        results = [Var(self._namer.fresh("g"), var.value) for var in inputs]
        self.ops.append(Op(regions.backward, (*saved, *tangents), {}, tuple(results), None, call.scope))
        for var, gradient in zip(inputs, results):
            known = self.gradients.get(id(var))
            if known is not None:
                total = Var(self._namer.fresh("g"), var.value)
                self.ops.append(Op(aten.add.Tensor, (known, gradient), {}, total))
                gradient = total
            self.gradients[id(var)] = gradient

    def _zeros(self, var: Var) -> Var:
        """Zeros in place of a gradient that is known to be absent."""
        value = var.value
        zeros = Var(self._namer.fresh("g"), value)
        options = {"dtype": value.dtype, "device": value.device}
        extent = [sum((size - 1) * stride for size, stride in zip(value.shape, value.stride())) + 1]
        flat = Var(self._namer.fresh("g"), value)
        self.ops.append(Op(aten.zeros.default, (extent,), options, flat))
        self.ops.append(Op(aten.as_strided.default, (flat, list(value.shape), list(value.stride())), {}, zeros))
        return zeros
