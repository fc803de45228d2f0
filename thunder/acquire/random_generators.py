"""Generators of PyTorch's random numbers: made, seeded and restored by the running program.

Acquisition draws nothing and seeds nothing: a generator that the program makes is a name in the trace, and what it is
told, or one from outside is told, is an operation.  A generator that is made with a seed gives the same numbers in
every call, as in plain Python.

Input: calls of `torch.Generator`, of its methods, and of `torch.manual_seed`.  Output: operations.  Invariant: no
generator from outside changes while the program is acquired.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.recorder import Recorder
from thunder.acquire.sharp_edges import SharpEdges
from thunder.acquire.tracker import AcquisitionTracker
from thunder.trace import Op

_SEEDING = (torch.manual_seed, torch.cuda.manual_seed, torch.cuda.manual_seed_all)
_OTHER_METHODS = ("seed", "get_offset", "set_offset", "graphsafe_get_state", "graphsafe_set_state")
"""Methods whose answer, or whose effect, is another one at every call."""
_REMEDY = "make and seed the generator with torch.Generator().manual_seed(...), or outside of the compiled function"


class RandomGenerators:
    """The look-asides of one acquisition.

    Args:
        tracker: knows the objects from outside.
        recorder: receives the operations.
        sharp_edges: refuses what the running program cannot do.
    """

    def __init__(self, tracker: AcquisitionTracker, recorder: Recorder, sharp_edges: SharpEdges) -> None:
        self.tracker = tracker
        self.recorder = recorder
        self.sharp_edges = sharp_edges
        self._seeds: dict[int, Any] = {}  # of each generator that the program seeds; None: not known any more
        recorder.check_generator = self.check

    def table(self) -> dict[Any, Callable[..., Any]]:
        """The look-asides by the callable that each replaces."""
        kind = torch.Generator
        table: dict[Any, Callable[..., Any]] = {
            kind: self.make,
            kind.manual_seed: self.manual_seed,
            kind.initial_seed: self.initial_seed,
            kind.get_state: self.get_state,
            kind.set_state: self.set_state,
            torch.get_rng_state: lambda interp: self._state(torch.default_generator, torch.get_rng_state, ()),
            torch.set_rng_state: self.set_rng_state,
        }
        if hasattr(kind, "clone_state"):
            table[kind.clone_state] = self.clone_state
        for function in _SEEDING:
            table[function] = self.seed_process(function)
        for name in _OTHER_METHODS:
            if hasattr(kind, name):
                table[getattr(kind, name)] = self.refused(name)
        return table

    def check(self, generator: torch.Generator) -> None:
        """Refuses a generator that neither the trace names nor the program is given."""
        known = self.recorder.var_of(generator) is not None or id(generator) in self.tracker.known
        if not known and generator is not torch.default_generator:
            self.sharp_edges.refuse("a generator that code makes which is not acquired", _REMEDY)

    # Making -----------------------------------------------------------------------------------------------------
    def make(self, interp: Any, *args: Any, **kwargs: Any) -> torch.Generator:
        """A new generator at every call."""
        return self._named(torch.Generator(*args, **kwargs), torch.Generator, args, kwargs)

    def clone_state(self, interp: Any, generator: torch.Generator) -> torch.Generator:
        """A new generator that goes on where another one is."""
        self.check(generator)
        clone = self._named(torch.Generator(generator.device), torch.Generator.clone_state, (generator,), {})
        self._seeds[id(clone)] = None
        return clone

    def _named(
        self, example: torch.Generator, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Generator:
        result = self.recorder.name_object(example, "generator")
        written_args, written_kwargs = self.recorder.written((args, kwargs))
        self._write(Op(function, written_args, written_kwargs, result))
        return example

    # Seeds ------------------------------------------------------------------------------------------------------
    def manual_seed(self, interp: Any, generator: torch.Generator, seed: Any) -> torch.Generator:
        self.check(generator)
        self.recorder.write_statement(torch.Generator.manual_seed, generator, seed)
        self._seeds[id(generator)] = seed
        return generator

    def seed_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`torch.manual_seed(seed)`, which answers the process's generator."""

        def replacement(interp: Any, seed: Any) -> Any:
            self.recorder.write_statement(function, seed)
            if function is not torch.manual_seed:
                return None
            self._seeds[id(torch.default_generator)] = seed
            return torch.default_generator

        return replacement

    def initial_seed(self, interp: Any, generator: torch.Generator) -> int:
        self.check(generator)
        if id(generator) not in self._seeds:
            if self.recorder.var_of(generator) is not None:
                return generator.initial_seed()  # that of generators which have not been seeded
            answer: int = self.tracker.call_opaque(generator.initial_seed, (), {})
            return answer
        seed = self._seeds[id(generator)]
        if type(seed) is not int:
            self.sharp_edges.refuse("initial_seed() of a generator whose state was set", _REMEDY)
        return torch.Generator().manual_seed(seed).initial_seed()

    def refused(self, name: str) -> Callable[..., Any]:
        def replacement(interp: Any, generator: torch.Generator, *args: Any) -> Any:
            self.sharp_edges.refuse(f"{name}() of a generator", _REMEDY)

        return replacement

    # States -----------------------------------------------------------------------------------------------------
    def get_state(self, interp: Any, generator: torch.Generator) -> torch.Tensor:
        self.check(generator)
        return self._state(generator, torch.Generator.get_state, (generator,))

    def _state(self, generator: torch.Generator, function: Callable[..., Any], args: tuple[Any, ...]) -> torch.Tensor:
        """The state is read when the program runs."""
        with torch._C.DisableTorchFunction(), self.recorder.paused():
            size = generator.get_state().numel()
        return self.recorder.new_result(function, (size,), torch.uint8, *args)

    def set_state(self, interp: Any, generator: torch.Generator, state: torch.Tensor) -> torch.Generator:
        self.check(generator)
        self.recorder.write_statement(torch.Generator.set_state, generator, state)
        self._seeds[id(generator)] = None
        return generator

    def set_rng_state(self, interp: Any, state: torch.Tensor) -> None:
        self.recorder.write_statement(torch.set_rng_state, state)
        self._seeds[id(torch.default_generator)] = None

    def _write(self, op: Op) -> None:
        op.location, op.scope = self.recorder.location(), self.recorder.scope
        self.recorder.ops.append(op)
