"""A functional trace as an FX graph, the form that PyTorch's own compilers take.

Input: a trace of ATen operations whose Vars carry fake tensors.  Output: a graph module with the trace's inputs, in
order, followed by its constants (real tensors among the arguments) as further inputs.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from thunder.trace import Trace, Var


def to_graph_module(trace: Trace) -> tuple[fx.GraphModule, list[Any], list[torch.Tensor]]:
    """(graph, example values of its inputs, the constants that are to be passed after the trace's inputs)."""
    graph = fx.Graph()
    nodes: dict[int, fx.Node] = {}
    examples: list[Any] = []
    for var in trace.inputs:
        nodes[id(var)] = _placeholder(graph, var.name, var.value)
        examples.append(var.value)
    constants: dict[int, torch.Tensor] = {}
    for op in trace.ops:
        for leaf in _leaves((op.args, op.kwargs)):
            if isinstance(leaf, torch.Tensor) and id(leaf) not in constants:
                constants[id(leaf)] = leaf
                example = _fake_like(trace, leaf)
                nodes[id(leaf)] = _placeholder(graph, f"constant_{len(constants)}", example)
                examples.append(example)
    for op in trace.ops:
        node = graph.call_function(op.target, _to_nodes(op.args, nodes), _to_nodes(op.kwargs, nodes))
        _bind(graph, node, op.result, nodes)
    graph.output(_to_nodes(tuple(trace.output), nodes))
    return fx.GraphModule({}, graph), examples, list(constants.values())


def _placeholder(graph: fx.Graph, name: str, value: Any) -> fx.Node:
    node = graph.placeholder(name)
    node.meta["val"] = value
    return node


def _fake_like(trace: Trace, constant: torch.Tensor) -> torch.Tensor:
    mode = next(var.value.fake_mode for var in trace.variables() if hasattr(var.value, "fake_mode"))
    return mode.from_tensor(constant)


def _leaves(structure: Any) -> list[Any]:
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in _leaves(item)]
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in _leaves(item)]
    return [structure]


def _to_nodes(structure: Any, nodes: dict[int, fx.Node]) -> Any:
    if isinstance(structure, (Var, torch.Tensor)):
        return nodes[id(structure)]
    if isinstance(structure, (list, tuple)):
        return type(structure)([_to_nodes(item, nodes) for item in structure])
    if isinstance(structure, dict):
        return {key: _to_nodes(item, nodes) for key, item in structure.items()}
    return structure


def _bind(graph: fx.Graph, node: fx.Node, result: Any, nodes: dict[int, fx.Node]) -> None:
    """Gives the Vars of a result their nodes: parts of a tuple are fetched with `operator.getitem`."""
    if isinstance(result, Var):
        node.meta["val"] = result.value
        nodes[id(result)] = node
    elif isinstance(result, tuple):
        node.meta["val"] = tuple(part.value if isinstance(part, Var) else None for part in result)
        for index, part in enumerate(result):
            if part is not None:
                _bind(graph, graph.call_function(operator.getitem, (node, index)), part, nodes)
