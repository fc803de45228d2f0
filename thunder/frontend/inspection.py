"""Looking into compiled callables: their traces, prologue and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thunder.errors import OptionError
from thunder.frontend.compiled import CompiledFunction, Entry
from thunder.frontend.module import is_compiled_module
from thunder.trace import Trace


@dataclass(frozen=True)
class CompileStats:
    """What compiling and calling cost.

    Attributes:
        cache_hits, cache_misses: calls that fitted a program, calls that did not.
        plain_calls: calls that ran in plain Python.
        plain_reason: why the last of them did.
        acquire_seconds, compile_seconds: one number for each program.
        failed_guards: the guards that failed when a new program was needed, oldest first.
        notes: decisions of the compiler, one sentence each.
    """

    cache_hits: int
    cache_misses: int
    plain_calls: int
    plain_reason: str
    acquire_seconds: tuple[float, ...]
    compile_seconds: tuple[float, ...]
    failed_guards: tuple[str, ...]
    notes: tuple[str, ...]


def compiled_function(compiled: Any) -> CompiledFunction:
    """The compiled callable behind what `thunder.jit` or `thunder.compile` returned."""
    if is_compiled_module(compiled):
        return compiled._thunder
    if isinstance(compiled, CompiledFunction):
        return compiled
    raise OptionError(
        f"{type(compiled).__qualname__} was not compiled by thunder", remedy="pass what thunder.compile returned"
    )


def _last(compiled: Any) -> Entry:
    entry = compiled_function(compiled).last
    if entry is None:
        raise OptionError("nothing has been compiled yet", remedy="call it once first")
    return entry


def last_traces(compiled: Any) -> list[Trace]:
    """The traces of the program that was compiled last, from the acquired one to the executed one."""
    return list(_last(compiled).computation.forward_traces)


def last_backward_traces(compiled: Any) -> list[Trace]:
    """The backward traces of the program that was compiled last; empty when nothing requires grad."""
    return list(_last(compiled).computation.backward_traces)


def last_prologue(compiled: Any) -> str:
    """The prologue of the program that was compiled last, as Python source."""
    return _last(compiled).program.prologue_source()


def last_epilogue(compiled: Any) -> str:
    """The epilogue of the program that was compiled last, as Python source."""
    return _last(compiled).program.epilogue_source()


def cache_hits(compiled: Any) -> int:
    """Calls that fitted a program."""
    return compiled_function(compiled).statistics.cache_hits


def cache_misses(compiled: Any) -> int:
    """Calls for which a program had to be made."""
    return compiled_function(compiled).statistics.cache_misses


def compile_stats(compiled: Any) -> CompileStats:
    """Counts, times and decisions."""
    found = compiled_function(compiled).statistics
    return CompileStats(
        found.cache_hits,
        found.cache_misses,
        found.plain_calls,
        found.plain_reason,
        tuple(found.acquire_seconds),
        tuple(found.compile_seconds),
        tuple(found.failed_guards),
        tuple(note for notes in found.notes for note in notes),
    )
