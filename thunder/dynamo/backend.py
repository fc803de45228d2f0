"""A backend for torch.compile: Dynamo finds the graphs, thunder transforms and executes each of them.

Dynamo breaks the user's Python into graphs and decides which sizes are dynamic; every graph is compiled as
`thunder.jit` compiles a function, with the same transforms, executors and inspection.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint

from thunder._torch_compat import higher_order_operator, recompile_lazy_graph
from thunder.errors import OptionError, unknown_name
from thunder.frontend import CompiledFunction, make_options

_OPTIONS = ("transforms", "executors", "sharp_edges", "on_break")
_graphs: list[weakref.ref[CompiledFunction]] = []


def backend(
    graph: torch.fx.GraphModule,
    example_inputs: list[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles one graph of Dynamo's.

    Args:
        graph: the graph; its tensors are lifted to inputs.
        example_inputs: not used: the work is done at the first call, with the real inputs.
        mode: torch.compile's modes are its own; any other than "default" is refused.
        options: `transforms`, `executors`, `sharp_edges` and `on_break` as in `thunder.jit`, but `on_break` is "eager"
            unless given: a graph with something that thunder does not know runs as Dynamo made it, with one warning.

    Example:
        >>> import torch, thunder
        >>> model = torch.compile(torch.nn.Linear(2, 2), backend="thunder")
    """
    if mode not in (None, "default"):
        raise OptionError(f"mode={mode!r} belongs to torch.compile's own backend", remedy="use thunder's plugins")
    for name in options or {}:
        if name not in _OPTIONS:
            raise unknown_name("option of the thunder backend", name, list(_OPTIONS))
    _checkpoint_as_eager(graph)
    recompile_lazy_graph(graph)
    choices = {"cache": "symbolic values", "on_break": "eager", **(options or {})}
    compiled = CompiledFunction(graph.forward, make_options(**choices))
    _graphs.append(weakref.ref(compiled))
    return compiled


def _checkpoint_as_eager(graph: torch.fx.GraphModule) -> None:
    """Has the graphs call `checkpoint` itself, where Dynamo has put an operator that stands for it.

    Run as it is, that operator draws other random numbers when it computes a second time: backends are expected to
    see to that.  A policy that selects what is saved is left out: everything is computed again, to the same values.
    """
    operator = higher_order_operator("tag_activation_checkpoint")
    for module in graph.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        calls = [node for node in module.graph.nodes if node.op == "call_function" and node.target is operator]
        for node in calls:
            node.target = torch.utils.checkpoint.checkpoint
            node.kwargs = {"preserve_rng_state": True, **node.kwargs, "use_reentrant": False}
        if calls:
            module.recompile()


def compiled_graphs() -> list[CompiledFunction]:
    """The graphs that have been compiled and are still alive, oldest first; `thunder.last_traces` takes each."""
    return [compiled for reference in _graphs if (compiled := reference()) is not None]
