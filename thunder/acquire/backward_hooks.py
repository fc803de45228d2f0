"""Full backward hooks of modules: calls that a program makes anew, with the hook's own state, each time it runs.

PyTorch hangs such a hook on the autograd nodes of a module's arguments and results.  What is recorded is the making
of the hook, the call that marks the arguments and the call that marks the results; the user's hooks run in the
backward of the program, on its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.hooks import BackwardHook

from thunder.trace import Op


def begin_backward_hook(
    module: torch.nn.Module, hooks: Sequence[Callable[..., Any]], pre_hooks: Sequence[Callable[..., Any]]
) -> BackwardHook:
    """The state of one call of a module that has full backward hooks."""
    return BackwardHook(module, hooks, pre_hooks)


def mark_arguments(hook: BackwardHook, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, seen by the hook."""
    return hook.setup_input_hook(arguments)


def mark_results(hook: BackwardHook, results: Any) -> Any:
    """The results, seen by the hook."""
    return hook.setup_output_hook(results)


def backward_hook_lookasides(recorder: Any, one_operation: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """Replacements for what `torch.nn.Module.__call__` calls."""

    def begin(interp: Any, module: Any, hooks: Sequence[Any], pre_hooks: Sequence[Any]) -> BackwardHook:
        hook = BackwardHook(module, hooks, pre_hooks)
        var = recorder.name_object(hook, "hook")
        arguments = (module, tuple(hooks), tuple(pre_hooks))
        recorder.ops.append(Op(begin_backward_hook, arguments, {}, var, recorder.location(), recorder.scope))
        return hook

    return {
        BackwardHook: begin,
        BackwardHook.setup_input_hook: lambda interp, hook, args: one_operation(mark_arguments, (hook, args), {}),
        BackwardHook.setup_output_hook: lambda interp, hook, args: one_operation(mark_results, (hook, args), {}),
    }
