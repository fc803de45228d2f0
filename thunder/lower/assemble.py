"""Puts the traces of blocks together: the program's forward trace and its backward trace.

Input: a `Lowered` program and for each block its split traces as regions.  Output: two traces that call them:

    forward(inputs...) -> (results that are outputs..., saved values...)
    backward(saved values..., tangents...) -> (gradients of the trainable inputs...)

The backward program is reverse mode over blocks: it calls the blocks' backward regions in reverse order and adds up
the gradients of values that are used more than once.  There is one for each set of outputs that the user
differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from thunder.lower.operators import aten
from thunder.lower.program import Call, Lowered, View
from thunder.lower.split import SplitBlock
from thunder.trace import Namer, Op, Region, Trace, Var

Mask = tuple[bool, ...]
Specialise = Callable[[Trace, frozenset[int]], Trace]


@dataclass
class BackwardRegion:
    """A block's backward trace for gradients of some of its results.

    Attributes:
        region: takes some of the saved values, then the gradients that exist.
        saved: numbers of the saved values that it takes.
        gradients: numbers of the block's inputs that get a gradient.
    """

    region: Region
    saved: list[int]
    gradients: list[int]


@dataclass
class BlockRegions:
    """A split block with the regions that stand for its traces in programs.

    `specialise` rewrites a backward trace for inputs, given by number, that are absent.
    """

    split: SplitBlock
    forward: Region
    backward: Region | None
    specialise: Specialise
    _variants: dict[Mask, BackwardRegion] = field(default_factory=dict)
    _whole: Trace | None = None

    def backward_for(self, present: Mask) -> BackwardRegion:
        """The backward region for the results whose gradients exist."""
        assert self.backward is not None
        if self._whole is None:
            self._whole = self.backward.trace  # as it is before claims and deletions change it
        variant = self._variants.get(present)
        if variant is None:
            variant = self._variants[present] = self._make_variant(self.backward, self._whole, present)
        return variant

    def _make_variant(self, backward: Region, whole: Trace, present: Mask) -> BackwardRegion:
        count, block = len(self.split.saved), self.split.block
        if all(present):
            return BackwardRegion(backward, list(range(count)), list(block.gradients))
        trace = self.specialise(whole, frozenset(count + number for number, given in enumerate(present) if not given))
        used = {id(var) for op in trace.ops for var in op.inputs()} | {id(var) for var in trace.output_vars()}
        saved = [number for number, var in enumerate(whole.inputs[:count]) if id(var) in used]
        tangents = [var for var, given in zip(whole.inputs[count:], present) if given]
        gradients = [number for number, var in zip(block.gradients, trace.output) if var is not None]
        name = f"{backward.name}_{''.join('x' if given else 'o' for given in present)}"
        trace = trace.replace(
            name=name,
            inputs=[*(whole.inputs[number] for number in saved), *tangents],
            output=tuple(var for var in trace.output if var is not None),
        )
        return BackwardRegion(Region(name, trace), saved, gradients)


@dataclass
class ForwardProgram:
    """The forward trace of a whole program.

    Attributes:
        trace: see the module's docstring.
        outputs: Vars that it returns first, without the saved values.
        saved: Vars that the backward program takes: inputs, then outputs, then `computed`.
        computed: the part of `saved` that `trace` returns after `outputs`.
        saved_of_call: for each call of a block, the Vars that its backward takes.
    """

    trace: Trace
    outputs: list[Var]
    saved: list[Var]
    computed: list[Var]
    saved_of_call: list[list[Var]]


def make_regions(split: SplitBlock, specialise: Specialise) -> BlockRegions:
    """Regions for the traces of a block."""
    backward = Region(split.backward.name, split.backward) if split.backward is not None else None
    return BlockRegions(split, Region(split.forward.name, split.forward), backward, specialise)


def output_vars(lowered: Lowered) -> list[Var]:
    """The distinct results that the program's outputs need."""
    inputs = {id(var) for var in lowered.inputs}
    found: dict[int, Var] = {}
    for output in lowered.outputs:
        var = output.base if isinstance(output, View) else output
        if isinstance(var, Var) and id(var) not in inputs:
            found[id(var)] = var
    return list(found.values())


def assemble_forward(lowered: Lowered, blocks: Mapping[int, BlockRegions], name: str) -> ForwardProgram:
    """The program's forward trace; `blocks` is by `id(block)`."""
    namer = _namer(lowered)
    ops: list[Op] = []
    saved_of_call: list[list[Var]] = []
    kept = _Kept(lowered, namer)
    for call in lowered.calls:
        regions = blocks[id(call.block)]
        split = regions.split
        extra = [Var(namer.fresh("saved"), var.value) for var in split.computed]
        ops.append(Op(regions.forward, tuple(call.inputs), {}, (*call.results, *extra), None, call.scope))
        known = [*call.inputs, *call.results, *extra]
        saved_of_call.append([kept.unchanged(known[position]) for position in split.saved])
    ops += kept.copies
    ops += [Op(aten.copy_.default, (var, new_value), {}, var) for var, new_value in lowered.changed]
    outputs = output_vars(lowered)
    inputs = {id(var) for var in lowered.inputs}
    provided = inputs | {id(var) for var in outputs}
    saved = _used_in_backward(lowered, blocks, saved_of_call)
    saved.sort(key=lambda var: 0 if id(var) in inputs else 1 if id(var) in provided else 2)
    computed = [var for var in saved if id(var) not in provided]
    trace = Trace(name, list(lowered.inputs), ops, (*outputs, *computed))
    return ForwardProgram(trace, outputs, saved, computed, saved_of_call)


def assemble_backward(
    lowered: Lowered, blocks: Mapping[int, BlockRegions], forward: ForwardProgram, present: Mask
) -> Trace:
    """The program's backward trace.

    Args:
        lowered, blocks, forward: the program.
        present: which of `lowered.differentiable` have a gradient.
    """
    namer = _namer(lowered, forward)
    reverse = _Reverse(namer)
    tangents = [reverse.start(var) for var, given in zip(lowered.differentiable, present) if given]
    for call, values in zip(reversed(lowered.calls), reversed(forward.saved_of_call)):
        reverse.call(call, blocks[id(call.block)], values)
    gradients = tuple(reverse.gradients.get(id(var)) for var in lowered.trainable)
    return Trace("backward", [*forward.saved, *tangents], reverse.ops, gradients)


def shared_gradients(lowered: Lowered) -> dict[int, int]:
    """Of `lowered.trainable`, those whose gradient PyTorch's autograd takes from an earlier one: that one's position.

    The sum of two tensors, for one, hands the same tensor to both.  That two gradients have the same value by chance,
    as common subexpressions have, is another thing: a user who changes one of them in place must not change the other.
    """
    sources: dict[int, list[tuple[int, int]]] = {id(var): [] for var in lowered.trainable}
    for number, call in enumerate(lowered.calls):
        for position, gradient in zip(call.block.gradients, call.block.joint.output[1]):
            sources.setdefault(id(call.inputs[position]), []).append((number, id(gradient)))
    firsts: dict[tuple[int, int], int] = {}
    shared: dict[int, int] = {}
    for position, var in enumerate(lowered.trainable):
        if len(sources[id(var)]) == 1:
            first = firsts.setdefault(sources[id(var)][0], position)
            if first != position:
                shared[position] = first
    return shared


def _namer(lowered: Lowered, forward: ForwardProgram | None = None) -> Namer:
    taken = {var.name for call in lowered.calls for var in call.results} | {var.name for var in lowered.inputs}
    return Namer(taken | {var.name for var in forward.saved} if forward is not None else taken)


def _used_in_backward(
    lowered: Lowered, blocks: Mapping[int, BlockRegions], saved_of_call: list[list[Var]]
) -> list[Var]:
    """What the blocks that gradients flow through have saved, once each."""
    if not lowered.trainable:
        return []
    saved: dict[int, Var] = {}
    wanted = {id(var) for var in lowered.differentiable}
    for call, values in zip(reversed(lowered.calls), reversed(saved_of_call)):
        differentiable = [var for var, given in zip(call.results, call.block.differentiable) if given]
        if blocks[id(call.block)].backward is not None and any(id(var) in wanted for var in differentiable):
            wanted |= {id(call.inputs[number]) for number in call.block.gradients}
            saved.update((id(var), var) for var in values)
    return list(saved.values())


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
        variant = regions.backward_for(tuple(id(var) in self.gradients for var in differentiable))
        taken = [saved[number] for number in variant.saved]
        tangents = [self.gradients[id(var)] for var in differentiable if id(var) in self.gradients]
        inputs = [call.inputs[number] for number in variant.gradients]
        results = [Var(self._namer.fresh("g"), var.value) for var in inputs]
        self.ops.append(Op(variant.region, (*taken, *tangents), {}, tuple(results), None, call.scope))
        for var, gradient in zip(inputs, results):
            known = self.gradients.get(id(var))
            if known is not None:
                total = Var(self._namer.fresh("g"), var.value)
                self.ops.append(Op(aten.add.Tensor, (known, gradient), {}, total))
                gradient = total
            self.gradients[id(var)] = gradient
