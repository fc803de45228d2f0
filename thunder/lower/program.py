"""Lowers a whole program: cuts it into segments and lowers each distinct one once.

Input: a torch-level trace.  Output: a `Lowered` program: the sequence of calls of blocks, how values flow between
them, and what has to happen outside of them: writing changed inputs back, making outputs that share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from thunder import _torch_compat
from thunder.lower.block import Block, TensorType, lower_block
from thunder.lower.limits import CrossingMutation, NotLowerable
from thunder.lower.recorder import Decompositions
from thunder.lower.segments import Segment, StructuralKey, cut_into_segments
from thunder.lower.state import current_state, is_state_statement, states_after
from thunder.trace import Namer, Trace, Var, iterate_vars


@dataclass
class Value:
    """What is known of a torch-level Var at some point of the program.

    Attributes:
        var: the Var of the lowered program that holds its value.
        type: its type.
        storage: values of equal number share memory.
        is_whole: whether it is all of the memory that it occupies.
        tensor_of: the program input that it is, itself and not only by value, or None.
        has_own_gradient: whether, sharing memory with another value, it may have a gradient unlike a view's.
    """

    var: Var
    type: TensorType
    storage: int
    is_whole: bool = False
    tensor_of: Var | None = None
    has_own_gradient: bool = False


@dataclass
class Call:
    """One call of a block: `results` are Vars for the block's `results`."""

    block: Block
    inputs: list[Var]
    results: list[Var]
    scope: str


@dataclass(frozen=True)
class View:
    """An output that shares memory with another value: `torch.as_strided(base, shape, stride, offset)`.

    `detached`: it is cut off from the gradients of the base.
    """

    base: Var
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    detached: bool


@dataclass
class Lowered:
    """A program as calls of blocks.

    Attributes:
        inputs: the program's inputs.
        calls: in order; equal layers call the same block.
        outputs: for each output of the program: a Var (an input or a result), a `View`, or a constant.
        changed: (input, its new value) for each input that is changed in place.
        differentiable: the results that are outputs with a gradient.
        trainable: inputs that get a gradient.
    """

    inputs: list[Var]
    calls: list[Call]
    outputs: list[Any]
    changed: list[tuple[Var, Var]]
    differentiable: list[Var]
    trainable: list[Var]
    blocks: list[Block] = field(default_factory=list)


def lower_program(computation: Trace, *, grad_enabled: bool, decompositions: Decompositions | None = None) -> Lowered:
    """Lowers a torch-level trace, in segments where that can express it.

    Args:
        computation: the program; the values of its inputs are fake tensors.
        grad_enabled: whether autograd is to be prepared for.
        decompositions: operators to be recorded in terms of others.

    Raises:
        NotLowerable: the functional form cannot express the program.
    """
    segments = cut_into_segments(computation.ops)
    if len(segments) > 1:
        try:
            return _ProgramLowering(computation, grad_enabled, decompositions or {}).run(segments)
        except CrossingMutation:
            pass
    return _ProgramLowering(computation, grad_enabled, decompositions or {}).run([Segment(list(computation.ops))])


class _ProgramLowering:
    def __init__(self, computation: Trace, grad_enabled: bool, decompositions: Decompositions) -> None:
        self.computation = computation
        self.decompositions = decompositions
        self.grad_enabled = grad_enabled
        self.states = states_after(computation.ops, replace(current_state(), grad_enabled=grad_enabled))
        self.state = replace(current_state(), grad_enabled=grad_enabled)
        self.values: dict[int, Value] = {}
        self.calls: list[Call] = []
        self.blocks: dict[Any, Block] = {}
        self.keys = StructuralKey()
        self.namer = Namer({var.name for var in computation.inputs})
        self.block_namer = Namer()
        self.storages = 0
        for var in computation.inputs:
            if not isinstance(var.value, torch.Tensor):
                raise NotLowerable(f"the input {var.name} is no tensor")
            self.values[id(var)] = Value(var, TensorType.of(var.value), self._new_storage(), tensor_of=var)
        self.fake_mode = _fake_mode_of(computation)

    def _new_storage(self) -> int:
        self.storages += 1
        return self.storages

    def run(self, segments: Sequence[Segment]) -> Lowered:
        leaving = _leaving_vars(segments, self.computation)
        for position, (segment, outputs) in enumerate(zip(segments, leaving)):
            self._lower_segment(segment, outputs, segments[position + 1 :])
            for op in segment.ops:
                self.state = self.states.get(id(op), self.state)
        return self._finish()

    def _lower_segment(self, segment: Segment, outputs: list[Var], later: Sequence[Segment]) -> None:
        if all(is_state_statement(op) for op in segment.ops):
            return
        states = (self.state, *(self.states[id(op)] for op in segment.ops if id(op) in self.states))
        key, inputs = self.keys.key(segment, outputs, lambda var: self._value(var).type, states)
        block = self.blocks.get(key)
        if block is None:
            block = self.blocks[key] = self._lower_block(segment, inputs, outputs)
        else:
            _share_subops(segment, block)
        self._call(block, segment, inputs, outputs, later)

    def _value(self, var: Var) -> Value:
        try:
            return self.values[id(var)]
        except KeyError:
            raise NotLowerable(f"{var.name} is no tensor that the program made") from None

    def _lower_block(self, segment: Segment, inputs: list[Var], outputs: list[Var]) -> Block:
        layer = segment.scope.rpartition(".")[0].rpartition(".")[2] or "block"
        prefix = segment.scope.replace(".", "_") + "_" if segment.scope else ""
        return lower_block(
            segment.ops,
            inputs,
            [self._value(var).type for var in inputs],
            outputs,
            name=self.block_namer.fresh(layer if layer.isidentifier() else "block", numbered=False),
            input_names=[_short_name(var.name, prefix) for var in inputs],
            state=self.state,
            states=self.states,
            fake_mode=self.fake_mode,
            decompositions=self.decompositions,
        )

    def _call(
        self, block: Block, segment: Segment, inputs: list[Var], outputs: list[Var], later: Sequence[Segment]
    ) -> None:
        """Adds a call and notes what is known of the values that it changes and makes."""
        entering = [self._value(var) for var in inputs]
        storages = {number: value.storage for number, value in reversed(list(enumerate(entering)))}
        names = {id(output.var): var.name for var, output in zip(outputs, block.outputs)}
        names |= {id(output.var): f"{inputs[number].name}_new" for number, output in block.changed}
        results = {id(var): Var(self.namer.fresh(names[id(var)], numbered=False), var.value) for var in block.results}

        def program_var(output: Any) -> Var:
            return entering[output.input].var if output.input is not None else results[id(output.var)]

        def storage_of(output: Any) -> int:
            return storages.setdefault(output.storage, self._new_storage())

        for number, output in block.changed:
            var, value = inputs[number], entering[number]
            if output.type.requires_grad and not value.type.requires_grad and value.tensor_of is not None:
                raise NotLowerable(f"the input {var.name} is changed in place by a value that requires grad")
            self._check_aliases(var, value.storage, inputs, outputs, later)
        for number, output in block.changed:
            value = entering[number]
            self.values[id(inputs[number])] = replace(
                value,
                var=program_var(output),
                type=replace(
                    value.type,
                    requires_grad=output.type.requires_grad,
                    is_leaf=value.tensor_of is not None or output.type.is_leaf,
                ),
            )
        for var, output in zip(outputs, block.outputs):
            tensor_of = entering[output.input].tensor_of if output.input is not None and output.is_input else None
            self.values[id(var)] = Value(
                program_var(output),
                output.type,
                storage_of(output),
                output.is_whole,
                tensor_of,
                output.has_own_gradient or any(value.has_own_gradient for value in entering),
            )
        self.calls.append(Call(block, [value.var for value in entering], list(results.values()), segment.scope))

    def _check_aliases(
        self, changed: Var, storage: int, inputs: list[Var], outputs: list[Var], later: Sequence[Segment]
    ) -> None:
        """Refuses a change in place that another value, made in an earlier segment, would have to show."""
        needed = {id(var) for segment in later for op in segment.ops for var in op.inputs()}
        needed |= {id(var) for var in iterate_vars(self.computation.output)}
        needed |= {id(var) for var in self.computation.inputs} | {id(var) for var in inputs}
        here = {id(var) for var in outputs}
        for key, value in self.values.items():
            if value.storage == storage and key != id(changed) and key in needed and key not in here:
                raise CrossingMutation(f"{changed.name} is changed in place while a view of it is in use")

    def _finish(self) -> Lowered:
        computation = self.computation
        changed = []
        for var in computation.inputs:
            value = self.values[id(var)]
            if value.var is not var:
                changed.append((var, value.var))
        outputs = self._program_outputs()
        requires_grad = {
            id(self._value(var).var)
            for var in computation.output
            if isinstance(var, Var) and self._value(var).type.requires_grad
        }
        made = {id(result) for call in self.calls for result in call.results}
        differentiable: dict[int, Var] = {}
        for output in outputs:
            var = output.base if isinstance(output, View) else output
            if isinstance(var, Var) and id(var) in made and id(var) in requires_grad:
                differentiable[id(var)] = var
        trainable = [var for var in computation.inputs if self.values[id(var)].type.requires_grad]
        return Lowered(
            list(computation.inputs),
            self.calls,
            outputs,
            changed,
            list(differentiable.values()),
            trainable if differentiable else [],
            list(self.blocks.values()),
        )

    def _program_outputs(self) -> list[Any]:
        """What each output is: see `Lowered.outputs`."""
        bases: dict[int, Value] = {}
        sharing: dict[int, set[int]] = {}
        for var in iterate_vars(self.computation.output):
            value = self._value(var)
            sharing.setdefault(value.storage, set()).add(id(var))
            base = bases.get(value.storage)
            if value.is_whole and (base is None or value.type.requires_grad > base.type.requires_grad):
                bases[value.storage] = value
        for var in self.computation.inputs:
            value = self.values[id(var)]
            bases[value.storage] = replace(value, var=var)
        outputs: list[Any] = []
        for var in self.computation.output:
            if not isinstance(var, Var):
                outputs.append(var)
                continue
            value = self._value(var)
            base = bases.get(value.storage)
            if value.tensor_of is not None:
                outputs.append(value.tensor_of)
            elif (base is value or len(sharing[value.storage]) == 1) and (base is None or base.tensor_of is None):
                outputs.append(value.var)
            elif base is None:
                raise NotLowerable("several outputs are views of one value that is no output itself")
            else:
                outputs.append(_view(value, base))
        return outputs


def _view(value: Value, base: Value) -> View:
    """How to make an output that shares the memory of `base`."""
    if value.type.dtype is not base.type.dtype:
        raise NotLowerable("an output is a view of another value in another dtype")
    if value.has_own_gradient:
        raise NotLowerable("an output that a custom autograd.Function made shares memory with another value")
    if value.type.requires_grad and not base.type.requires_grad:
        raise NotLowerable("an output that requires grad is a view of an input that does not")
    offset = value.type.storage_offset - base.type.storage_offset
    detached = base.type.requires_grad and not value.type.requires_grad
    return View(base.var, value.type.shape, value.type.stride, offset, detached)


def _leaving_vars(segments: Sequence[Segment], computation: Trace) -> list[list[Var]]:
    """For each segment, the Vars that it is the first to define and that are used after it."""
    needed = {id(var) for var in iterate_vars(computation.output)}
    used_after: list[set[int]] = []
    for segment in reversed(segments):
        used_after.append(set(needed))
        needed |= {id(var) for op in segment.ops if not is_state_statement(op) for var in op.inputs()}
    used_after.reverse()
    defined = {id(var) for var in computation.inputs}
    leaving: list[list[Var]] = []
    for segment, used in zip(segments, used_after):
        own: dict[int, Var] = {}
        for op in segment.ops:
            if is_state_statement(op):
                continue
            for var in op.outputs():
                if id(var) not in defined:
                    own.setdefault(id(var), var)
        defined |= set(own)
        leaving.append([var for key, var in own.items() if key in used])
    return leaving


def _share_subops(segment: Segment, block: Block) -> None:
    """Operations of an equal segment have the same calls beneath them."""
    for op, source in zip(segment.ops, block.sources):
        op.subops = source.subops


def _short_name(name: str, prefix: str) -> str:
    """The name without the path of the layer, as the layer's own code says it."""
    position = name.find(prefix) if prefix else -1
    short = name[position + len(prefix) :] if position >= 0 else name
    return short if short.isidentifier() else name


def _fake_mode_of(computation: Trace) -> Any:
    for var in computation.inputs:
        mode = getattr(var.value, "fake_mode", None)
        if mode is not None:
            return mode
    return _torch_compat.fake_tensor_mode()
