"""Runs a lowered program: the callable that users' calls end in.

Input: the forward and backward functions of a program and how its outputs are made from theirs.  Output: a function
of the program's inputs that behaves as the torch-level program does under eager PyTorch: autograd history, outputs
that are inputs or views of them, inputs changed in place.

Training runs in one `torch.autograd.Function`.  Inputs and outputs that the backward program needs are saved as
autograd saves them, so that changing one in place is noticed; values that nobody else can reach are kept in a list,
which the backward program empties as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from thunder import _torch_compat
from thunder.executors.distribution import ProgramDistribution
from thunder.lower import ForwardProgram, Lowered, Mask, View, gradient_strides, shared_gradients
from thunder.trace import Var, compile_source

_FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already "
    "been freed). Specify retain_graph=True if you need to backward through the graph a second time."
)
_SECOND_DERIVATIVE = (
    b"thunder: a compiled program has no second derivative; compile with executors=['eager'] to differentiate twice"
)

Function = Callable[..., Any]


@dataclass
class TangentType:
    """The layout in which the backward program takes a gradient."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def prepared(self, tangent: torch.Tensor) -> torch.Tensor:
        """The gradient in this layout."""
        if tangent.stride() == self.stride:
            return tangent
        empty = torch.empty_strided(self.shape, self.stride, dtype=tangent.dtype, device=tangent.device)
        return empty.copy_(tangent)


class TrainingProgram:
    """What `_Differentiable` needs to run one program.

    Attributes:
        forward: inputs -> (outputs..., computed saved values...).
        backward_for: which outputs have a gradient -> function that takes one list (saved inputs and outputs, computed
            values, these gradients), which it empties.
        output_count: how many of the forward function's values are outputs.
        saved_inputs, saved_outputs: positions of those that backward takes.
        watched_outputs: positions of outputs that share memory with a computed value: they are saved as well, so
            that autograd notices when they are changed.
        not_differentiable: positions of the outputs without a gradient.
        tangents: for each output with a gradient, its position and layout.
        trainable: positions of the inputs that get a gradient, in the order of backward's results.
        changed: positions of the inputs that are changed in place.
        distribution: for a program that is spread over processes.
    """

    def __init__(
        self,
        lowered: Lowered,
        program: ForwardProgram,
        forward: Function,
        backward_for: Callable[[Mask], Function],
        distribution: ProgramDistribution | None = None,
    ) -> None:
        inputs = {id(var): position for position, var in enumerate(lowered.inputs)}
        outputs = {id(var): position for position, var in enumerate(program.outputs)}
        differentiable = {id(var) for var in lowered.differentiable}
        self.forward = forward
        self.backward_for = backward_for
        self.distribution = distribution
        self.separation = Separation(shared_gradients(lowered) if distribution is None else {})
        self.output_count = len(program.outputs)
        self.saved_inputs = [inputs[id(var)] for var in program.saved if id(var) in inputs]
        self.saved_outputs = [outputs[id(var)] for var in program.saved if id(var) in outputs]
        self.watched_outputs = _sharing_memory(program.outputs, program.computed, set(self.saved_outputs))
        self.not_differentiable = [n for n, var in enumerate(program.outputs) if id(var) not in differentiable]
        self.tangents = [(outputs[id(var)], _tangent_type(var)) for var in lowered.differentiable]
        self.trainable = [inputs[id(var)] for var in lowered.trainable]
        self.changed = [inputs[id(var)] for var, _ in lowered.changed]


def _tangent_type(var: Var) -> TangentType:
    shape = tuple(var.value.shape)
    return TangentType(shape, gradient_strides(shape, var.value.stride()))


def _sharing_memory(outputs: Sequence[Var], computed: Sequence[Var], known: set[int]) -> list[int]:
    storages = {_torch_compat.storage_key(var.value) for var in computed}
    return [
        position
        for position, var in enumerate(outputs)
        if position not in known and _torch_compat.storage_key(var.value) in storages
    ]


class _Differentiable(torch.autograd.Function):
    """One call of a training program, as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, program: TrainingProgram, inputs: tuple[Any, ...], *trainable: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.program = program
        if program.distribution is not None:
            inputs = tuple(program.distribution.enter(inputs))
        with _torch_compat.below_autograd():
            values = program.forward(*inputs)
        outputs = values[: program.output_count]
        computed = list(values[program.output_count :])
        saved = [inputs[position] for position in program.saved_inputs]
        saved += [outputs[position] for position in program.saved_outputs]
        ctx.saved_count = len(saved)
        saved += [outputs[position] for position in program.watched_outputs]
        if _torch_compat.has_saved_tensor_hooks():
            ctx.computed = None
            saved += computed
        else:
            ctx.computed = computed
        ctx.save_for_backward(*saved)
        if program.not_differentiable:
            ctx.mark_non_differentiable(*(outputs[position] for position in program.not_differentiable))
        if program.changed:
            _note_changes(inputs[position] for position in program.changed)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        program: TrainingProgram = ctx.program
        if ctx.computed is _GONE:
            raise RuntimeError(_FREED)
        saved = ctx.saved_tensors
        arguments = list(saved[: ctx.saved_count])
        if ctx.computed is None:
            arguments += saved[ctx.saved_count + len(program.watched_outputs) :]
        elif _torch_compat.is_graph_kept():
            arguments += ctx.computed
        else:
            arguments += ctx.computed
            ctx.computed = _GONE
        del saved
        present = []
        for position, kind in program.tangents:
            gradient = gradients[position]
            present.append(gradient is not None)
            if gradient is not None:
                arguments.append(kind.prepared(gradient))
        if not any(present):
            return (None, None, *(None for _ in program.trainable))
        twice = torch.is_grad_enabled()
        with torch.no_grad(), _torch_compat.below_autograd():
            variant = None
            if program.distribution is None:
                results = program.backward_for(tuple(present))(arguments)
            else:
                variant = program.distribution.backward_variant()
                results = _distributed_backward(program, program.distribution, tuple(present), arguments)
            results = program.separation.separate((tuple(present), variant), results)
        if twice:
            results = _not_differentiable_again(results)
        return (None, None, *results)


class Separation:
    """Gradients that lie in the same memory get memory of their own: autograd and optimisers change them in place.

    Which ones do is found out at the first call of each backward program.

    Args:
        shared: positions of gradients that are the same tensor as another, whose position is the value, in eager
            PyTorch as well.  They become one Python object, which autograd copies where it has to.
    """

    def __init__(self, shared: Mapping[int, int] = MappingProxyType({})) -> None:
        self._shared = shared
        self._overlapping: dict[Any, list[int]] = {}

    def separate(self, program: Any, gradients: Sequence[torch.Tensor | None]) -> Sequence[torch.Tensor | None]:
        """The gradients, none of which overlaps with another; `program` tells backward programs apart."""
        positions = self._overlapping.get(program)
        if positions is None:
            positions = self._overlapping[program] = _overlapping(gradients)
        if not positions:
            return gradients
        separated = list(gradients)
        for position in positions:
            gradient = separated[position]
            if gradient is None:
                continue
            other = separated[self._shared[position]] if position in self._shared else None
            separated[position] = other if other is not None and _are_one(gradient, other) else gradient.clone()
        return separated


def _are_one(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are the same elements of the same memory."""
    return (
        first.data_ptr() == second.data_ptr()
        and first.shape == second.shape
        and first.stride() == second.stride()
        and first.dtype == second.dtype
    )


def _overlapping(tensors: Sequence[torch.Tensor | None]) -> list[int]:
    """Positions of the tensors that begin within the memory of others."""
    spans = []
    for position, tensor in enumerate(tensors):
        if type(tensor) is torch.Tensor and tensor.numel():
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
            start = tensor.data_ptr()
            spans.append((start, start + (last + 1) * tensor.element_size(), position))
    found, end = [], 0
    for start, stop, position in sorted(spans):
        if start < end:
            found.append(position)
        end = max(end, stop)
    return found


def _distributed_backward(
    program: TrainingProgram, distribution: ProgramDistribution, present: Mask, arguments: list[Any]
) -> Any:
    variant = distribution.backward_variant()
    function = program.backward_for(present)
    distribution.before_backward(arguments, variant)
    return distribution.leave(function(arguments), variant)


_GONE: list[Any] = []


def _not_differentiable_again(gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """With `create_graph=True`: gradients whose own gradient is a clear error."""
    present = [gradient.detach().requires_grad_() for gradient in gradients if gradient is not None]
    marked = iter(_torch_compat.delayed_error(_SECOND_DERIVATIVE, present))
    return [None if gradient is None else next(marked) for gradient in gradients]


def _note_changes(tensors: Any) -> None:
    """Tells autograd that tensors were changed in place, which happened below its notice."""
    torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])


def make_training_run(
    program: TrainingProgram, lowered: Lowered, outputs: Sequence[Var], *, grad_enabled: bool
) -> Function:
    """The callable of a program with gradients; `grad_enabled` is the grad mode that it will be called under."""
    trainable = [lowered.inputs[position].name for position in program.trainable]
    inputs = _tuple(var.name for var in lowered.inputs)
    call = f"_thunder_apply(_thunder_program, {inputs}, {', '.join(trainable)})"
    line = f"{_tuple(var.name for var in outputs)} = {call}"
    return _make_run(
        lowered,
        [line] if grad_enabled else ["with _thunder_enable_grad():", f"    {line}"],
        {"apply": _torch_compat.function_apply(_Differentiable), "program": program, "enable_grad": torch.enable_grad},
    )


def make_inference_run(forward: Function, lowered: Lowered, results: Sequence[Var]) -> Function:
    """The callable of a program without gradients; `results` are what `forward` returns."""
    inputs = ", ".join(var.name for var in lowered.inputs)
    outputs = [var.name for var in results]
    lines = ["with _thunder_below_autograd():", f"    {_tuple(outputs)} = _thunder_forward({inputs})"]
    if not outputs:
        lines[1] = f"    _thunder_forward({inputs})"
    if lowered.changed:
        lines.append(f"_thunder_note_changes({_tuple(var.name for var, _ in lowered.changed)})")
    return _make_run(
        lowered,
        lines,
        {"forward": forward, "below_autograd": _torch_compat.below_autograd, "note_changes": _note_changes},
    )


def _make_run(lowered: Lowered, lines: list[str], namespace: dict[str, Any]) -> Function:
    """Writes `run(inputs) -> outputs` around the statements that call the program."""
    constants: dict[str, Any] = {}
    returned = []
    for output in lowered.outputs:
        if isinstance(output, View):
            base = f"{output.base.name}.detach()" if output.detached else output.base.name
            offset = str(output.offset)
            if any(output.base is var for var in lowered.inputs):
                offset = f"{output.base.name}.storage_offset() + {offset}"
            returned.append(f"_thunder_as_strided({base}, {output.shape}, {output.stride}, {offset})")
        elif isinstance(output, Var):
            returned.append(output.name)
        else:
            returned.append(f"_thunder_constant_{len(constants)}")
            constants[f"constant_{len(constants)}"] = output
    names = ", ".join(var.name for var in lowered.inputs)
    source = [
        f"def run({names}):",
        "    if _thunder_is_any_autocast_enabled():",
        f"        with _thunder_no_autocast(): return _thunder_run({names})",
        f"    return _thunder_run({names})",
        f"def _thunder_run({names}):",
        *(f"    {line}" for line in lines),
        f"    return {_tuple(returned)}",
        "",
    ]
    namespace = {
        **namespace,
        **constants,
        "as_strided": torch.as_strided,
        "is_any_autocast_enabled": _torch_compat.is_any_autocast_enabled,
        "no_autocast": _torch_compat.no_autocast,
    }
    # The prefix keeps these names apart from those of the program's inputs.
    return compile_source("\n".join(source), "run", {f"_thunder_{name}": value for name, value in namespace.items()})


def _tuple(parts: Any) -> str:
    joined = ", ".join(parts)
    return f"({joined},)" if joined else "()"
