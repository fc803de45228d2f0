"""Passes: functions `Trace -> Trace`, with timing, provenance and verification added by a decorator.

A pass is switched off by name with `disabled_passes({"eliminate_dead_code"})`; user transforms are passes too
(`run_pass`).
"""

from __future__ import annotations

import contextvars
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from thunder.errors import TraceVerificationError
from thunder.trace.trace import Trace
from thunder.trace.verify import verify

_disabled: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar("disabled_passes", default=frozenset())


@contextmanager
def disabled_passes(names: frozenset[str] | set[str]) -> Iterator[None]:
    """Within the block, the passes with these names return their input."""
    token = _disabled.set(frozenset(names) | _disabled.get())
    try:
        yield
    finally:
        _disabled.reset(token)


def run_pass(function: Callable[..., Trace], trace: Trace, *args: object, **kwargs: object) -> Trace:
    """Runs one pass: times it, verifies its result and notes it in the history."""
    name = getattr(function, "__name__", type(function).__name__)
    if name in _disabled.get():
        return trace
    start = time.perf_counter()
    result = function(trace, *args, **kwargs)
    milliseconds = (time.perf_counter() - start) * 1e3
    if not isinstance(result, Trace):
        raise TraceVerificationError(
            f"the pass {name} returned {type(result).__name__}", remedy="return a thunder.trace.Trace"
        )
    verify(result, name)
    if result is trace:
        return trace
    result.history = (*trace.history, f"made by {name}, {milliseconds:.1f} ms, {len(result.ops)} ops")
    return result


def trace_pass(function: Callable[..., Trace]) -> Callable[..., Trace]:
    """Decorator that makes a `Trace -> Trace` function a pass."""

    @functools.wraps(function)
    def wrapper(trace: Trace, *args: object, **kwargs: object) -> Trace:
        return run_pass(function, trace, *args, **kwargs)

    return wrapper
