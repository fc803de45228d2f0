"""Running a torch-level trace as it stands, under PyTorch's own autograd.

Input: a torch-level trace.  Output: a callable with the trace's signature that returns its outputs
as a tuple.

A trace contains the statements that a `with torch.no_grad()` or `with torch.autocast(...)`, or a transform of
`torch.func`, makes on entering and on leaving.  When an operation raises between them, the user's program would
leave the context on its way out; the callable does the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from thunder import _torch_compat
from thunder.trace import Op, Trace


class _OpenContexts(threading.local):
    """The contexts that running traces have entered and not yet left, innermost last; one list a thread."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, Callable[[Any], Any]]] = []


_open = _OpenContexts()


def run_torch_program(trace: Trace) -> Callable[..., tuple[Any, ...]]:
    """A callable that executes the statements of the trace in order."""
    if not _has_state_statements(trace):
        return trace.callable()
    function = trace.replace(ops=[_tracked(op) for op in trace.ops]).callable()

    def run(*inputs: Any) -> tuple[Any, ...]:
        grad_enabled = torch.is_grad_enabled()
        depth = len(_open.entries)
        try:
            return function(*inputs)
        except BaseException:  # also KeyboardInterrupt: the contexts are left whatever it was that came up
            while len(_open.entries) > depth:
                context, leave = _open.entries.pop()
                leave(context)
            torch.set_grad_enabled(grad_enabled)
            raise

    return run


def _has_state_statements(trace: Trace) -> bool:
    state_targets = {
        _torch_compat.set_grad_enabled_statement(),
        *_torch_compat.context_statements(),
        *_torch_compat.level_statements(),
    }
    return any(op.target in state_targets for op in trace.ops)


def _tracked(op: Op) -> Op:
    """The operation itself, or for one that enters or leaves a context, one that notes this in `_open`."""
    statements = _torch_compat.context_statements()
    target = op.target
    if target in statements:
        leave = statements[target]

        def enter_and_note(*args: Any, **kwargs: Any) -> Any:
            context = target(*args, **kwargs)
            _open.entries.append((context, leave))
            return context

        return op.with_target(enter_and_note)
    levels = _torch_compat.level_statements()
    if target in levels:
        leave_level = levels[target]
        keyword = target is _torch_compat.enter_dual_level()

        def enter_level_and_note(*args: Any) -> Any:
            level = target(*args)
            _open.entries.append((level, lambda number: leave_level(level=number) if keyword else leave_level()))
            return level

        return op.with_target(enter_level_and_note)
    if target in levels.values():

        def leave_level_and_note(**kwargs: Any) -> Any:
            _open.entries.pop()
            return target(**kwargs)

        return op.with_target(leave_level_and_note)
    if target in statements.values():

        def leave_and_note(context: Any) -> Any:
            _open.entries.pop()
            return target(context)

        return op.with_target(leave_and_note)
    return op
