"""A compiled function without arguments that is called many times in a row.

Input: a function that works on buffers.  Output: `start()`, which checks once that the compiled program still fits and
returns a callable for the calls that follow, in which nothing that the guards look at changes; when the program is a
CUDA graph that takes and returns nothing, that callable is the graph's replay.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from thunder.acquire import acquisition
from thunder.errors import ExecutorWarning, ThunderError
from thunder.frontend import CompiledFunction, Entry, Options


class RepeatedProgram:
    """A function of no arguments, compiled at its first start."""

    def __init__(self, function: Callable[[], Any], options: Options) -> None:
        self._function = function
        self.compiled = CompiledFunction(function, options)
        self._entries: list[tuple[Entry, Callable[..., Any]]] = []
        self._inputs: tuple[Any, ...] = ()
        self._current: Entry | None = None
        self.gave_up = False

    def start(self) -> Callable[[], Any]:
        """What to call for each of the next calls."""
        self._current = None
        if self.gave_up:
            return self._function
        for entry, bind in self._entries:
            if type(bind((), {})) is tuple:
                return self._call_of(entry)
        try:
            with acquisition.lock:
                entry = self.compiled.compile((), {})
        except ThunderError as error:
            warnings.warn(f"decoding runs in plain Python: {error}", ExecutorWarning, stacklevel=2)
            self.gave_up = True
            return self._function
        self.compiled.entries = [entry, *self.compiled.entries]
        bind = entry.program.link(functools.partial(self._note_inputs, entry.program.output_count))
        self._entries.append((entry, bind))
        if type(bind((), {})) is not tuple:
            return self._function
        return self._call_of(entry)

    def _note_inputs(self, count: int, *inputs: Any) -> tuple[None, ...]:
        """In the place of the computation: keeps what it would be called with."""
        self._inputs = inputs
        return (None,) * count

    def _call_of(self, entry: Entry) -> Callable[[], Any]:
        self._current = entry
        if entry.program.epilogue:
            return self.compiled  # it changes Python state as well: whole calls
        run, inputs = entry.computation.run, self._inputs
        if entry.program.output_count == 0:
            return lambda: run(*inputs)
        return lambda: run(*inputs)[0]

    def replay(self) -> Callable[[], None] | None:
        """The replay of the graph that the last call used, if it takes and returns nothing."""
        current = self._current
        graphed = current.computation.graphed if current is not None and not current.program.epilogue else None
        recording = graphed.used if graphed is not None else None
        return recording.graph.replay if recording is not None and recording.is_closed else None
