"""Programs that are spread over processes: what the pipeline asks of the features that do so.

A `Distribution` belongs to a compiled model, a `ProgramDistribution` to one of its programs.  Programs are acquired
and lowered as if every parameter were whole; the distribution then puts collectives into the assembled traces, and
exchanges, at every call, parameters for the parts of them that are here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from thunder.acquire import Seen
from thunder.lower import ForwardProgram, Lowered
from thunder.trace import Trace


class ProgramDistribution:
    """How one program is spread; its methods are called in the order in which they stand."""

    def forward(self, lowered: Lowered, program: ForwardProgram) -> tuple[Lowered, ForwardProgram]:
        """The program with its collectives, over the inputs that this process has."""
        raise NotImplementedError

    def put_off(self, lowered: Lowered, trace: Trace) -> Any:
        """A backward trace in two parts, `first` and `later`, where some gradients are to be computed later; or None.

        Both are traces; the answer is handed to `joined`.
        """
        return None

    def joined(
        self, first: Callable[[list[Any]], Any], later: Callable[[list[Any]], Any], parts: Any, count: int
    ) -> Callable[[list[Any]], Any]:
        """The backward function made of two parts; `count` gradients are expected of it."""
        raise NotImplementedError

    def backward(self, trace: Trace, variant: Hashable) -> Trace:
        """The backward trace of the same program, with its collectives.

        Args:
            trace: takes what the forward program saved, then tangents; what it takes may be exchanged for what the
                distributed forward program saves.
            variant: what `backward_variant` answered.
        """
        raise NotImplementedError

    def watched(self, function: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
        """`function`, which runs a trace that this distribution has made, with errors that name what failed."""
        return function

    def backward_variant(self) -> Hashable:
        """Which form of the backward program the call at hand needs."""
        return None

    def enter(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """The inputs of the distributed program for those of the program."""
        return inputs

    def before_backward(self, arguments: list[Any], variant: Hashable) -> None:
        """Adds to the arguments of the backward program what this form of it takes beyond them."""

    def leave(self, gradients: Sequence[Any], variant: Hashable) -> Sequence[Any]:
        """The gradients of the program's trainable inputs for those that the distributed program returns."""
        return gradients

    def run_undivided(self, run: Callable[..., tuple[Any, ...]], trace: Trace) -> Callable[..., tuple[Any, ...]]:
        """For a program that cannot be lowered: `run` on whole parameters, whose gradients are reduced at the end.

        Args:
            run: runs the trace.
            trace: of PyTorch's functions.
        """
        raise NotImplementedError


class Distribution:
    """How the programs of one model are spread over processes."""

    @property
    def runs_uncompiled(self) -> bool:
        """Whether the model's own code gives the right results without compiled programs, but for gradients."""
        return False

    def dispatch_of(self, compiled: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], Any] | None:
        """What makes the calls `(args, kwargs)` of a compiled function in its place; None: it makes them itself."""
        return None

    def seen_as(self, tensor: torch.Tensor) -> Seen | None:
        """For a parameter that is spread over processes, what programs see in its place; else None."""
        raise NotImplementedError

    def for_program(self, inputs: Sequence[Any]) -> ProgramDistribution:
        """The distribution of a program with these inputs."""
        raise NotImplementedError
