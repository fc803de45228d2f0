"""Lowers one block: torch-level operations to one functional ATen trace, with gradients when training.

Input: operations, the values that enter and leave, the thread's state.  Output: a `Block`, whose `joint` trace takes
the block's inputs and, when training, one tangent for each differentiable output:

    joint(inputs..., tangents...) -> ((outputs..., changed inputs...), (gradients...))

Operations of the backward part carry the tag `backward`.  The trace is functional: an input that the block changes
in place comes out as a new value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thunder import _torch_compat
from thunder.lower.layouts import gradient_strides, is_dense, same_layout
from thunder.lower.limits import NotLowerable
from thunder.lower.operators import aten
from thunder.lower.recorder import AtenRecorder, Decompositions
from thunder.lower.replay import Replay
from thunder.lower.state import AmbientState, ambient_state
from thunder.trace import Op, Trace, Var


@dataclass(frozen=True)
class TensorType:
    """What a block may depend on of a tensor that enters it.

    `is_leaf` matters, and is otherwise true, only where the tensor requires grad.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    is_leaf: bool

    @staticmethod
    def of(tensor: torch.Tensor) -> TensorType:
        """The type of an input of the program: autograd takes it for a leaf."""
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            raise NotLowerable(f"an input has the layout {tensor.layout} or is a lazy conjugate or negative")
        return TensorType(
            tuple(tensor.shape),
            tuple(tensor.stride()),
            int(tensor.storage_offset()),
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
            True,
        )

    def example(self) -> torch.Tensor:
        """A tensor of this type without requires_grad; made under the fake mode, it takes no memory."""
        if self.storage_offset == 0:
            return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride)) + 1
        base = torch.empty(self.storage_offset + max(reach, 0), dtype=self.dtype, device=self.device)
        return base.as_strided(self.shape, self.stride, self.storage_offset)


@dataclass
class Output:
    """A value that leaves a block.

    Attributes:
        var: its Var in the joint trace.
        type: its type, as the next block's input.
        input: number of the block input whose value it has, or None.
        is_input: whether it is that very tensor, and not an alias of it.
        storage: values of equal number share memory; numbers below the count of inputs are those of the inputs.
        is_whole: whether it is all of the memory that it occupies.
        has_own_gradient: whether a user's `autograd.Function` may have made it: if it shares memory with another
            value, its gradient need not be that of a view.
    """

    var: Var
    type: TensorType
    input: int | None
    is_input: bool
    storage: int
    is_whole: bool
    has_own_gradient: bool


@dataclass
class Block:
    """A lowered block.

    Attributes:
        name: stem of the names of its regions.
        joint: see the module's docstring.
        input_count: how many inputs of the joint trace are the block's inputs; tangents follow.
        outputs: the values asked for, in order.
        changed: (number of the input, its new value) for each input that is changed in place.
        results: what the joint trace returns first: the distinct values of outputs and changed inputs.
        differentiable: for each of `results`, whether it has a tangent.
        gradients: for each of the gradients that the joint trace returns, the number of the input.
        sources: the torch-level operations that it was lowered from.
        types: of the inputs.
    """

    name: str
    joint: Trace
    input_count: int
    outputs: list[Output]
    changed: list[tuple[int, Output]]
    results: list[Var]
    differentiable: list[bool]
    gradients: list[int]
    sources: Sequence[Op]
    types: Sequence[TensorType]

    def transient_inputs(self) -> frozenset[int]:
        """Numbers of the inputs that are values of the program, not its parameters or data."""
        return frozenset(number for number, kind in enumerate(self.types) if kind.requires_grad and not kind.is_leaf)


class _Lowering:
    """The work of `lower_block`; its methods are called in the order in which they stand."""

    def __init__(self, types: Sequence[TensorType], decompositions: Decompositions) -> None:
        self.types = types
        self.recorder = AtenRecorder(decompositions)
        self.examples = [kind.example() for kind in types]
        self.inputs: list[Var] = []
        self.leaves: list[torch.Tensor] = []
        self.entries: list[torch.Tensor] = []
        self.results: dict[int, tuple[Var, torch.Tensor]] = {}

    def enter(self, names: Sequence[str]) -> None:
        """Makes, for each input, the tensor that gradients are asked for and the one that operations see.

        They differ where the input is no leaf: under autograd, operations may change such a value in place.
        """
        recorder = self.recorder
        recorder.paused = True
        for name, kind, fake in zip(names, self.types, self.examples):
            leaf = entry = _torch_compat.to_functional(fake)
            var = recorder.new_input(name, fake)
            if kind.requires_grad:
                leaf.requires_grad_(True)
                if not kind.is_leaf:
                    with torch.enable_grad():
                        entry = leaf.clone()
                    recorder.bind(_torch_compat.from_functional(entry), var)
            self.inputs.append(var)
            self.leaves.append(leaf)
            self.entries.append(entry)
        recorder.paused = False

    def outputs(self, values: Sequence[Any], variables: Sequence[Var]) -> list[Output]:
        """Describes the values that leave the block; `variables` are what acquisition recorded of them."""
        self._storages: dict[int, int] = {}
        for number, entry in enumerate(self.entries):
            self._storages.setdefault(_torch_compat.storage_key(entry), number)
        self._numbers = {id(var): number for number, var in enumerate(self.inputs)}
        self._leaving: set[int] = set()
        self._laid_out_anew: set[int] = set()
        return [self._output(value, var.value.stride()) for value, var in zip(values, variables)]

    def _output(self, value: Any, strides: Sequence[int]) -> Output:
        """Describes a value that leaves the block and has these strides in eager PyTorch."""
        if not isinstance(value, torch.Tensor):
            raise NotLowerable(f"a {type(value).__name__} leaves a block")
        if value.layout is not torch.strided or value.is_conj() or value.is_neg():
            raise NotLowerable("a lazy conjugate, a lazy negative or a sparse tensor leaves a block")
        storage = self._storages.setdefault(_torch_compat.storage_key(value), len(self.entries) + len(self._storages))
        value, is_whole = self._with_eager_strides(value, strides, storage)
        kind = TensorType(
            tuple(value.shape),
            tuple(value.stride()),
            int(value.storage_offset()),
            value.dtype,
            value.device,
            value.requires_grad,
            not value.requires_grad,
        )
        var = self.recorder.var_of(_torch_compat.from_functional(value))
        if not isinstance(var, Var):
            raise NotLowerable("a constant of the program leaves a block")
        number = self._numbers.get(id(var))
        is_input = number is not None and value is self.entries[number]
        known = self.results.get(id(var))
        if value.requires_grad and not is_input and (number is not None or (known and known[1] is not value)):
            # The same value with another history, as of a function that only changes gradients.
            if number is not None or (known is not None and known[1].requires_grad):
                alias = Var(self.recorder.namer.fresh(self.recorder.stem), var.value)
                self.recorder.ops.append(Op(aten.alias.default, (var,), {}, alias))
                var, number, known = alias, None, None
        if number is None and (known is None or value.requires_grad):
            self.results[id(var)] = (var, value)
        return Output(var, kind, number, is_input, storage, is_whole, _has_own_gradient(value))

    def _with_eager_strides(
        self, value: torch.Tensor, strides: Sequence[int], storage: int
    ) -> tuple[torch.Tensor, bool]:
        """(the value in the memory layout that it has in eager PyTorch, whether it is all of its memory).

        An operation in place keeps the layout of its argument; the functional one chooses the layout of its result.
        """
        was_there, self._leaving = storage in self._leaving, self._leaving | {storage}
        inner = _torch_compat.from_functional(value)
        if same_layout(value.shape, inner.stride(), strides):
            if storage in self._laid_out_anew:
                raise NotLowerable("a value that shares its memory leaves a block in another layout than it was made")
            is_whole = value.numel() * value.element_size() == value.untyped_storage().nbytes()
            return value, is_whole and value.storage_offset() == 0
        if was_there:
            raise NotLowerable("a value that shares its memory leaves a block in another layout than it was made")
        self._laid_out_anew.add(storage)
        with torch.set_grad_enabled(value.requires_grad):
            return _with_strides(value, strides), is_dense(value.shape, strides)

    def changed_inputs(self) -> list[tuple[int, Output]]:
        """The inputs that were changed in place, with their new values."""
        changed = []
        for number, (entry, kind) in enumerate(zip(self.entries, self.types)):
            if _torch_compat.has_metadata_mutation(entry):
                raise NotLowerable(f"the shape or the storage of {self.inputs[number]} is changed in place")
            if _torch_compat.has_data_mutation(entry):
                output = self._output(entry, kind.stride)
                if (output.type.shape, output.type.stride) != (kind.shape, kind.stride):
                    raise NotLowerable(f"{self.inputs[number]} is changed in place to another shape")
                if kind.requires_grad and kind.is_leaf and not _torch_compat.is_changed_under_no_grad(entry):
                    raise NotLowerable(f"{self.inputs[number]}, which requires grad, is changed in place")
                if output.input != number:
                    changed.append((number, output))
        return changed

    def gradients(self) -> tuple[list[Var], list[int], list[Any]]:
        """Runs autograd backwards; returns tangents, numbers of the inputs that get gradients, and these."""
        recorder = self.recorder
        results = [value for _, value in self.results.values() if value.requires_grad]
        wanted = [number for number, kind in enumerate(self.types) if kind.requires_grad]
        if not results or not wanted:
            return [], [], []
        tangents, tangent_vars = [], []
        recorder.paused = True
        for result in results:
            strides = gradient_strides(result.shape, result.stride())
            tangent = torch.empty_strided(result.shape, strides, dtype=result.dtype, device=result.device)
            tangents.append(tangent)
            tangent_vars.append(recorder.new_input("tangent", _torch_compat.from_functional(tangent)))
        recorder.paused = False
        recorder.tags, recorder.stem, recorder.source = {"backward": True}, "g", None
        with torch.autograd.set_multithreading_enabled(False):
            gradients = torch.autograd.grad(
                results, [self.leaves[number] for number in wanted], tangents, allow_unused=True
            )
        found = [(number, gradient) for number, gradient in zip(wanted, gradients) if gradient is not None]
        numbers = [number for number, _ in found]
        laid_out = [self._laid_out(gradient, self.types[number]) for number, gradient in found]
        return tangent_vars, numbers, [recorder.var_of(_torch_compat.from_functional(g)) for g in laid_out]

    def _laid_out(self, gradient: torch.Tensor, kind: TensorType) -> torch.Tensor:
        """The gradient in the memory layout of its input, for which the block before was lowered."""
        if gradient.layout is not torch.strided:
            raise NotLowerable("a gradient is sparse")
        strides = gradient_strides(kind.shape, kind.stride)
        if tuple(gradient.stride()) == strides or (kind.is_leaf and gradient.is_contiguous()):
            return gradient
        return _with_strides(gradient, strides)


def _with_strides(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A copy with another memory layout."""
    empty = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    copied: torch.Tensor = aten.copy.default(empty, tensor)
    return copied


def _has_own_gradient(value: torch.Tensor) -> bool:
    node = value.grad_fn
    while node is not None:
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        node = parents[0] if len(parents) == 1 else None
    return False


def lower_block(
    ops: Sequence[Op],
    inputs: Sequence[Var],
    types: Sequence[TensorType],
    outputs: Sequence[Var],
    *,
    name: str,
    input_names: Sequence[str],
    state: AmbientState,
    states: Mapping[int, AmbientState],
    fake_mode: Any,
    decompositions: Decompositions,
) -> Block:
    """Lowers torch-level operations.

    Args:
        ops: the block's operations.
        inputs, types: the Vars that enter it and what is known of them.
        outputs: the Vars that it defines and that are used after it.
        name, input_names: for the trace.
        state, states: the thread's state before the first operation, and after each that changes it.
        fake_mode: mode of the fake tensors.
        decompositions: operators to be recorded in terms of others.
    """
    with fake_mode, ambient_state(state), _torch_compat.effects_by_order():
        lowering = _Lowering(types, decompositions)
        with _torch_compat.python_dispatcher(), lowering.recorder, _torch_compat.functional_tensor_mode():
            lowering.enter(input_names)
            values = {id(var): entry for var, entry in zip(inputs, lowering.entries)}
            Replay(lowering.recorder, fake_mode, values, states).run(ops)
            state.without_autocast().apply()
            described = lowering.outputs([values[id(var)] for var in outputs], outputs)
            changed = lowering.changed_inputs()
            tangents, numbers, gradients = lowering.gradients()
    results = [var for var, _ in lowering.results.values()]
    differentiable = [bool(tangents) and value.requires_grad for _, value in lowering.results.values()]
    joint = Trace(name, [*lowering.inputs, *tangents], lowering.recorder.ops, (tuple(results), tuple(gradients)))
    return Block(name, joint, len(types), described, changed, results, differentiable, numbers, ops, types)
