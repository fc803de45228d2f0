"""One stage of a pipeline on this process: a compiled program as `torch.distributed.pipelining` runs it.

Input: a `Stage` and the program's inputs.  Output: a module whose forward takes what the stage before sends and the
number of the microbatch, and returns what the stage after takes.  Gradients stay with this process until the last
microbatch, whose backward program reduces the sums of all while it runs; those that a schedule puts off stay until the
pipeline has run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from thunder.distributed.data_parallel import ACCUMULATED, DataParallel, ProgramDataParallel
from thunder.distributed.split_backward import SplitBackward, split_backward
from thunder.distributed.stages import Stage
from thunder.executors import CompiledComputation, Executor, compile_computation
from thunder.executors.runtime import Separation
from thunder.lower import Lowered
from thunder.trace import Trace


class LocalStage(torch.nn.Module):
    """A stage that this process runs.

    Args:
        stage: its trace.
        number: which one it is.
        is_last: whether it gives the program's outputs.
        distribution: of its parameters; nothing else uses it.
        inputs: those of the program, of the call that it is compiled for.
        executors, transforms: as for any program.
        trains: whether gradients are computed.
        puts_off_weights: whether gradients of weights are computed apart from those of activations.
    """

    def __init__(
        self,
        stage: Stage,
        number: int,
        *,
        is_last: bool,
        distribution: DataParallel,
        inputs: Sequence[Any],
        executors: Sequence[Executor],
        transforms: Sequence[Callable[[Trace], Trace]],
        trains: bool,
        puts_off_weights: bool,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.number = number
        self.is_last = is_last
        self.distribution = distribution
        self.batches: Sequence[Sequence[Any]] = ()
        self._trains = trains
        own = [None] * stage.received + [inputs[position] for position in stage.inputs]
        parameters = {id(parameter) for parameter in distribution.model.parameters()}
        self._used = [x for x in own if id(x) in parameters]
        layouts = [distribution.layout(x) if id(x) in parameters else None for x in own]
        self._program = StageProgram(distribution, layouts, own, stage.received if puts_off_weights else None)
        self.computation: CompiledComputation = compile_computation(
            stage.trace,
            executors=executors,
            transforms=transforms,
            grad_enabled=trains,
            distribution=self._program,
        )

    def begin(self, batches: Sequence[Sequence[Any]]) -> None:
        """Takes the program's inputs for each microbatch of a step."""
        self.batches = batches
        self._program.begin(len(batches))

    def finish(self) -> None:
        """Ends a step: reduces gradients that are still this process's own."""
        self.batches = ()
        if self.distribution.has_local_gradients:
            self.distribution.reduce_kept_gradients(self._used)

    def forward(self, *received: torch.Tensor, microbatch: torch.Tensor) -> Any:
        outputs = self.run(received, int(microbatch))
        if self.is_last:
            return outputs[0].reshape(1)  # pipelines put the results of microbatches side by side
        return tuple(map(_sendable, outputs))

    def run(self, received: Sequence[torch.Tensor], microbatch: int) -> tuple[Any, ...]:
        """The outputs of the stage's trace."""
        if received and self._trains:
            received = _Received.apply(*received)
        batch = self.batches[microbatch]
        return self.computation.run(*received, *(batch[position] for position in self.stage.inputs))

    def weight_gradients(self) -> Callable[..., None]:
        """What computes the gradients that the backward pass before has put off."""
        late, self._program.late = self._program.late, None
        return _nothing if late is None else late


def _nothing() -> None:
    """Everything has been computed."""


class _Received(torch.autograd.Function):
    """Activations from another stage: each of them gets a gradient, zeros where the stage has none."""

    @staticmethod
    def forward(ctx: Any, *received: torch.Tensor) -> Any:
        return tuple(x.view_as(x) for x in received)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients


def _sendable(value: torch.Tensor) -> torch.Tensor:
    """Contiguous, and something that a gradient can come back for."""
    value = value.contiguous()
    if torch.is_grad_enabled() and not value.requires_grad:
        return value.detach().requires_grad_()
    return value


class StageProgram(ProgramDataParallel):
    """The program of a stage; `received` inputs' gradients are computed first, the others put off; None: all at once.

    Attributes:
        late: computes what the last backward pass has put off, into the parameters' gradients.
    """

    def __init__(
        self, parent: DataParallel, layouts: Sequence[Any], inputs: Sequence[Any], received: int | None
    ) -> None:
        super().__init__(parent, layouts, inputs)
        self._inputs = inputs
        self._received = received
        self._separation = Separation()
        self._is_split = False
        self._reduces = any(layout is not None and parent.reduces(layout) for layout in layouts)
        self._left = 0
        self.late: Callable[[], None] | None = None

    def begin(self, microbatches: int) -> None:
        """So many backward passes follow, the last of which reduces gradients."""
        self._left = microbatches
        self._parent.local_gradients.clear()  # of a step that failed
        self._parent.has_local_gradients = False
        self._parent.synchronises = self._reduces_now()

    def _reduces_now(self) -> bool:
        return self._left == 1 and self._reduces and not self._is_split

    def backward_variant(self) -> Hashable:
        # Between steps: the form that reduces, which is compiled first and shown.
        at_rest = self._left <= 0 and self._reduces and not self._is_split
        return ACCUMULATED if at_rest else super().backward_variant()

    def leave(self, gradients: Sequence[Any], variant: Hashable) -> Sequence[Any]:
        left = super().leave(gradients, variant)
        self._left -= 1
        self._parent.synchronises = self._reduces_now()
        return left

    def put_off(self, lowered: Lowered, trace: Trace) -> SplitBackward | None:
        # Gradients of parameters that are gathered need the parameters once more.
        if self._received is None or any(layout is not None and layout.processes > 1 for layout in self._layouts):
            return None
        received = {id(var) for var in lowered.inputs[: self._received]}
        parts = split_backward(trace, [n for n, var in enumerate(lowered.trainable) if id(var) in received])
        self._is_split = self._is_split or parts is not None
        return parts

    def joined(
        self, first: Callable[[list[Any]], Any], later: Callable[[list[Any]], Any], split: SplitBackward, count: int
    ) -> Callable[[list[Any]], Any]:
        def run(arguments: list[Any]) -> list[Any]:
            values = list(first(arguments))
            gradients: list[Any] = [None] * count
            for position, value in zip(split.at_once, values):
                gradients[position] = value
            passed = values[len(split.at_once) :]

            def late() -> None:
                with torch.no_grad():
                    self._accumulate(later(passed), split.put_off, count)

            self.late = late
            return gradients

        return run

    def _accumulate(self, values: Sequence[Any], positions: Sequence[int], count: int) -> None:
        gradients: list[Any] = [None] * count
        for position, value in zip(positions, self._separation.separate(tuple(positions), values)):
            gradients[position] = value
        left = self.leave(gradients, self.backward_variant())
        for number, gradient in zip(self._trainable, left):
            if gradient is None:
                continue
            parameter = self._inputs[number]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
