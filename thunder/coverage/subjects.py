"""The things under test: each turns a function or module into a compiled one.

Input: a callable. Output: a callable that should behave exactly as the first. `eager` returns it unchanged, which
tests the harness itself: whatever fails there is a fault of a suite, not of a compiler.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

import thunder
from thunder.coverage.errors import RanInPlainPython
from thunder.coverage.recorder import NotRunnableInEager
from thunder.errors import unknown_name


class Subject(ABC):
    """A compiler under test."""

    name: str

    def warm(self) -> None:  # noqa: B027 (most compilers need nothing)
        """Import the compiler; runs once in the process that rows are forked from."""

    @abstractmethod
    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The compiled form of a function or module."""

    def compile_with_generate(self, model: torch.nn.Module) -> torch.nn.Module | None:
        """The compiled form of a model with a decoding loop of the compiler's own; None where it has none."""
        return None

    def require_compiled(self, compiled: Callable[..., Any]) -> None:  # noqa: B027 (others raise by themselves)
        """Raise when calls of `compiled` were answered by plain Python, in which agreeing with eager is no merit."""

    def reset(self) -> None:  # noqa: B027 (most compilers need nothing)
        """Forget what was compiled, so that cases of one process do not touch each other."""


class Eager(Subject):
    """Plain PyTorch."""

    name = "eager"

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


class Dynamo(Subject):
    """`torch.compile(fullgraph=True, backend="eager")`: the peer that acquires graphs in another way."""

    name = "dynamo"

    def warm(self) -> None:
        self.reset()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, fullgraph=True, backend="eager")

    def reset(self) -> None:
        torch.compiler.reset()


class Thunder(Subject):
    """`thunder.jit`, with a given list of executors or the default one."""

    def __init__(self, name: str, executors: list[str] | None) -> None:
        self.name = name
        self.executors = executors

    def warm(self) -> None:
        with torch.no_grad():
            self.compile(_warming_up)(torch.zeros(2, 3))

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # as `thunder.compile` has it by default; on the CPU there is nothing to capture
        graphs = "inference" if self.executors is None else "off"
        return thunder.jit(function, executors=self.executors, cuda_graphs=graphs)

    def compile_with_generate(self, model: torch.nn.Module) -> torch.nn.Module | None:
        if importlib.import_module("thunder.generate.request").why_unsuitable(model) is not None:
            return None
        mixins = (importlib.import_module("thunder.generate").GenerationMethods,)
        compiled: torch.nn.Module = thunder.jit(model, executors=self.executors, cache="symbolic values", mixins=mixins)
        return compiled

    def require_compiled(self, compiled: Callable[..., Any]) -> None:
        statistics = thunder.compile_stats(compiled)
        if statistics.plain_calls:
            raise RanInPlainPython(statistics.plain_calls, statistics.plain_reason)
        for note in statistics.notes:
            if _OTHER_LOOP in note:
                raise NotRunnableInEager(note)  # agreeing with itself says nothing either


_OTHER_LOOP = "generate runs Hugging Face's own loop"
"""What `thunder.generate` notes when it leaves a call to the uncompiled model."""


def _warming_up(x: torch.Tensor) -> Any:
    """What PyTorch and the compiler set up at their first calls of each kind: once here instead of in every row."""
    y = x.view(-1)[1:].to(torch.float64).abs()
    y.add_(1)
    return torch.add(y, 1, out=torch.empty_like(y)), torch.nn.functional.softmax(y, 0).sum(), torch.stack([y, y]).T


SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (
        Eager(),
        Dynamo(),
        Thunder("thunder", None),
        Thunder("thunder-eager", ["eager"]),
        Thunder("thunder-lowered", ["aten"]),
    )
}


def subject_named(name: str) -> Subject:
    """Look a subject up; an unknown name lists the known ones."""
    if name not in SUBJECTS:
        raise unknown_name("subject", name, list(SUBJECTS))
    return SUBJECTS[name]
