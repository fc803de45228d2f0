"""Tensor parallelism: the layers of one model divided among processes that all see the same batch.

Input: a model, a plan (module-name pattern -> style).  Output: the same model object, whose planned modules have
DTensor parameters and forward functions with collectives (`parallel_linear.py`).  Programs see
the parts: activations between a column- and a row-divided layer are as wide as the part, and attention has this
process's heads, so that key-value caches are divided as well.

`merge_entries` is the pass over acquired traces that leaves one collective where several layers take the same input;
`divide_cross_entropy` the one that computes losses of gathered logits from each process's columns.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.nn import functional as F

from thunder.distributed.collectives import Group
from thunder.distributed.initialise import Initialise, modules_with_values
from thunder.distributed.layout import rows_of
from thunder.distributed.mesh import group_of
from thunder.distributed.parallel_linear import (
    Enter,
    Gather,
    Rows,
    column_linear,
    gathered_norm,
    is_transposed,
    packed_linear,
    routed_experts,
    row_embedding,
    row_linear,
    select_rows,
    split_sequence,
    vocabulary_cross_entropy,
)
from thunder.distributed.tensor_plans import automatic_plan, match_plan, sequence_norms, takes_routing, why_not_by_rows
from thunder.errors import MeshError, ShardingPlanError
from thunder.trace import Namer, Op, Trace, Var, map_vars


def parallelise(
    model: torch.nn.Module,
    mesh: DeviceMesh,
    plan: Mapping[str, str] | None,
    *,
    synchronise: bool,
    sequence_parallel: bool = False,
    device: torch.device,
    initialise: Initialise | None = None,
) -> list[torch.nn.Parameter]:
    """Divides the modules that a plan names; returns the parameters whose gradients have to be added up.

    Args:
        model: changed in place.
        mesh: of one dimension.
        plan: style by pattern of module names (`*` stands for anything but dots); None for the model's own.
        synchronise: whether parameters and buffers are taken from the first process.
        sequence_parallel: whether norms, dropout and residual sums are divided along the sequence.
        device: of the parts.
        initialise: for a model on the meta device: gives one module's own parameters and buffers their values.

    Raises:
        ShardingPlanError: a pattern names nothing, a style is unknown or does not fit its module.
        MeshError: the number of processes does not divide a layer.
    """
    group = group_of(mesh)
    matched = match_plan(model, plan if plan is not None else automatic_plan(model, group.size))
    styles = _Styles(model, mesh, group, sequence_parallel)
    norms = sequence_norms(model, matched) if sequence_parallel else None
    for name, style in matched.items():
        styles.check(name, model.get_submodule(name), style)
    styles.check_shared(matched)
    for name, module, _ in modules_with_values(
        model, mesh, device, initialise=initialise, synchronise=synchronise
    ):  # fmt: skip
        styles.apply(module, matched.get(name, "replicate"))
    for name, style in matched.items():
        if style == "replicated_with_grad_allreduce":
            styles.summed += list(model.get_submodule(name).parameters())
    styles.divide_heads()
    if norms is not None:
        styles.divide_sequence(*norms)
    return styles.summed


class _Styles:
    """Divides modules, one after the other.

    Attributes:
        summed: parameters that stay whole and whose gradients have to be added up.
    """

    def __init__(self, model: torch.nn.Module, mesh: DeviceMesh, group: Group, sequence: bool) -> None:
        self.model, self.mesh, self.group, self.sequence = model, mesh, group, sequence
        self.summed: list[torch.nn.Parameter] = []
        self._attentions: list[Any] = []

    def check(self, name: str, module: torch.nn.Module, style: str) -> None:
        """Raises when the style does not fit the module."""
        reason = _why_unfit(module, style)
        if reason is not None:
            raise ShardingPlanError(
                f"the plan asks for {style!r} for {name!r}, which is a {type(module).__qualname__}",
                remedy=f"{style!r} is for {reason}",
            )
        ranges: list[tuple[int, int]] = []
        inputs, outputs = _widths(module)
        if style.startswith("colwise") or style == "packed_colwise":
            count, what = outputs, "output features"
        elif style.startswith("rowwise"):
            count, what = inputs, "input features"
        elif style == "embedding_rowwise":
            count, what = module.num_embeddings, "rows"  # type: ignore[assignment]
        elif style == "moe_tp_experts":
            count, what = module.num_experts, "experts"  # type: ignore[assignment]
        else:
            return
        self._divides(name, count, what)
        parent = self.model.get_submodule(name.rpartition(".")[0])
        head = getattr(parent, "head_dim", None)
        if isinstance(head, int) and style == "colwise" and count % head == 0:
            self._divides(name, count // head, "heads")
        if style == "packed_colwise":
            for heads in _packed_parts(name, parent, module):
                self._divides(name, heads[0], "heads")
            ranges = [*self._rows(parent, module)]
        if isinstance(module, torch.nn.Linear) and hasattr(module, "keep_part"):
            own = rows_of(count, self.group.size, self.group.rank)
            dimension = 1 if style.startswith("rowwise") else 0
            reason = module.why_indivisible(dimension, ranges or [(own.start, own.stop)])  # type: ignore[operator]
            if reason is not None:
                raise ShardingPlanError(
                    f"{name!r} cannot be divided among {self.group.size} processes: {reason}",
                    remedy="quantise with smaller groups, leave the layer out of the plan, or do not quantise it",
                )

    def check_shared(self, matched: Mapping[str, str]) -> None:
        """Raises when modules share a parameter and are not divided alike."""
        places: dict[int, tuple[str, int | None]] = {}
        for name, module in self.model.named_modules():
            dimensions = _dimensions(module, matched.get(name, "replicate"))
            for own, parameter in module._parameters.items():
                if parameter is None:
                    continue
                here = f"{name}.{own}", dimensions.get(own)
                there = places.setdefault(id(parameter), here)
                if there[1] != here[1]:
                    raise ShardingPlanError(
                        f"{there[0]!r} and {here[0]!r} are one parameter, and the plan does not divide them alike",
                        remedy="name both modules: 'embedding_rowwise' for the embedding goes with "
                        "'colwise_gather_output' for the head",
                    )

    def _divides(self, name: str, count: int, what: str) -> None:
        size = self.group.size
        if count % size:
            raise MeshError(
                f"{name!r} has {count} {what}, which {size} processes cannot divide",
                remedy=f"use a number of processes that divides {count}, or leave the module out of the plan",
            )

    def apply(self, module: Any, style: str) -> None:
        """Divides one module's parameters and gives it its forward."""
        group = self.group
        self._divide(module, _dimensions(module, style))
        if style in ("colwise", "colwise_gather_output"):
            gathers = style == "colwise_gather_output"
            module.forward = functools.partial(column_linear, module, group, gathers, not self.sequence)
        elif style in ("rowwise", "rowwise_split_input"):
            splits = style == "rowwise_split_input"
            module.forward = functools.partial(row_linear, module, group, splits, self.sequence)
            if self.sequence and module.bias is not None:
                self.summed.append(module.bias)
        elif style == "embedding_rowwise":
            rows = rows_of(module.num_embeddings, group.size, group.rank)
            if module.padding_idx is not None:  # its row gets no gradient, where it is
                module.padding_idx = module.padding_idx - rows.start if module.padding_idx in rows else None
            module.forward = functools.partial(row_embedding, module, group, rows.start, module.forward)
        elif style == "moe_tp_experts":
            experts = rows_of(module.num_experts, group.size, group.rank)
            module.num_experts = len(experts)
            names = tuple(name for name, parameter in module._parameters.items() if parameter is not None)
            module.forward = functools.partial(
                routed_experts, module, group, experts.start, names, module.forward
            )  # fmt: skip
        elif style == "packed_colwise":
            parent = next(p for p in self.model.modules() if any(child is module for child in p.children()))
            own_rows: Rows = tuple(self._rows(parent, module))
            is_quantised = hasattr(module, "keep_part")
            if is_quantised:
                module.keep_part(0, own_rows)
                if module.bias is not None:
                    module.bias = torch.nn.Parameter(select_rows(module.bias.detach(), own_rows), False)
            chosen = None if is_quantised else own_rows
            module.forward = functools.partial(packed_linear, module, group, chosen, not self.sequence)
            self.summed += list(module.parameters(recurse=False))
            self._attentions.append(parent)

    def _rows(self, parent: Any, module: Any) -> Iterator[tuple[int, int]]:
        """The rows of each packed part that are this process's."""
        start = 0
        for heads, size in _packed_parts("", parent, module):
            own = rows_of(heads, self.group.size, self.group.rank)
            yield start + own.start * size, start + own.stop * size
            start += heads * size

    def _divide(self, module: Any, dimensions: dict[str, int]) -> None:
        if dimensions and hasattr(module, "keep_part"):
            dimension = dimensions["weight"]
            own = rows_of((module.out_features, module.in_features)[dimension], self.group.size, self.group.rank)
            module.keep_part(dimension, [(own.start, own.stop)])
        for name, dimension in dimensions.items():
            parameter = module._parameters.get(name)
            # One that a module before has too is divided already.
            if parameter is not None and not isinstance(parameter, DTensor):
                module._parameters[name] = _part(parameter, self.mesh, dimension)

    def divide_sequence(self, first_layer: Any, norms: list[Any]) -> None:
        """Between divided layers each process has some rows of the sequence; norms see those alone."""
        first_layer.forward = functools.partial(split_sequence, first_layer.forward, self.group)
        for norm in norms:
            norm.forward = functools.partial(gathered_norm, norm.forward, self.group)
            self.summed += list(norm.parameters())

    def divide_heads(self) -> None:
        """Modules that ask a configuration for the number of heads get one with this process's number."""
        for attention in self._attentions:
            config = attention.config = copy.copy(attention.config)
            config.n_head //= self.group.size
            config.n_query_groups //= self.group.size


def _widths(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer; nothing for other modules."""
    if is_transposed(module):
        return module.nx, module.nf
    return getattr(module, "in_features", 0), getattr(module, "out_features", 0)


def _dimensions(module: torch.nn.Module, style: str) -> dict[str, int]:
    """The dimension along which a style divides each parameter of a module; others stay whole."""
    columns, rows = (1, 0) if is_transposed(module) else (0, 1)
    if style in ("colwise", "colwise_gather_output"):
        return {"weight": columns, "bias": 0}
    if style in ("rowwise", "rowwise_split_input"):
        return {"weight": rows}
    if style == "embedding_rowwise":
        return {"weight": 0}
    if style == "moe_tp_experts":
        return dict.fromkeys(module._parameters, 0)
    return {}


def _why_unfit(module: torch.nn.Module, style: str) -> str | None:
    """What a style is for, where it is not for this module."""
    if style in ("replicate", "replicated_with_grad_allreduce"):
        return None
    if style == "moe_tp_experts":
        return (
            None if takes_routing(module) else "modules that hold all experts of a layer, as transformers builds them"
        )
    if style == "embedding_rowwise":
        if not isinstance(module, torch.nn.Embedding):
            return "Embedding"
        reason = why_not_by_rows(module)
        return None if reason is None else f"embeddings whose rows are looked up one by one; here {reason}"
    # Layers with a `product` (thunder.precision) compute it from parts as they do from the whole.
    is_plain = type(module).forward is torch.nn.Linear.forward or hasattr(module, "product")
    if isinstance(module, torch.nn.Linear) and is_plain:
        return None
    if is_transposed(module) and style != "packed_colwise":
        return None
    return "Linear with its own forward"


def _packed_parts(name: str, parent: Any, module: Any) -> list[tuple[int, int]]:
    """(how many heads, rows of each) of the parts of a packed weight: queries, keys and values of LitGPT."""
    config = getattr(parent, "config", None)
    try:
        heads, groups, size = config.n_head, config.n_query_groups, config.head_size  # type: ignore[union-attr]
    except AttributeError:
        raise ShardingPlanError(
            f"{name!r} is to be divided as 'packed_colwise', and its parent has no configuration with n_head, "
            "n_query_groups and head_size",
            remedy="leave it out of the plan, together with the layer that takes its output",
        ) from None
    return [(heads, size), (groups, size), (groups, size)]


def _part(parameter: torch.Tensor, mesh: DeviceMesh, dimension: int) -> torch.nn.Parameter:
    """The parameter as a DTensor divided along one dimension."""
    whole = parameter.detach()
    rows = rows_of(whole.shape[dimension], mesh.size(), mesh.get_local_rank())
    part = whole.narrow(dimension, rows.start, len(rows)).clone(memory_format=torch.contiguous_format)
    placements: list[Placement] = [Shard(dimension)]
    divided = DTensor.from_local(
        part,
        mesh,
        placements,
        run_check=False,
        shape=whole.shape,
        stride=torch.empty_like(whole, device="meta").stride(),
    )
    return torch.nn.Parameter(divided, requires_grad=parameter.requires_grad)


def merge_entries(trace: Trace) -> Trace:
    """Layers that take the same common input enter it once: backward has one sum over processes for all of them."""
    first: dict[tuple[int, str], Var] = {}
    merged: dict[int, Var] = {}
    changed = {id(var) for op in trace.ops for var in op.tags.get("changes", ())}
    ops: list[Op] = []
    for op in trace.ops:
        op = op.map_inputs(lambda var: merged.get(id(var), var)) if merged else op
        if is_entry(op) and isinstance(op.args[0], Var) and not {id(op.args[0]), id(op.result)} & changed:
            key = (id(op.args[0]), op.args[1])
            if key in first:
                merged[id(op.result)] = first[key]
                continue
            first[key] = op.result
        ops.append(op)
    if not merged:
        return trace
    return trace.replace(ops=ops, output=map_vars(lambda var: merged.get(id(var), var), trace.output))


def is_entry(op: Op) -> bool:
    """Whether the operation is `Enter.apply`."""
    return getattr(op.target, "__self__", None) is Enter


def divide_cross_entropy(trace: Trace) -> Trace:
    """Cross-entropies of gathered logits are computed from this process's columns; gathers that are left over go.

    Between the two there may be casts, other shapes of the leading dimensions, and cuts along them.
    """
    made = {id(var): op for op in trace.ops for var in op.outputs() if id(var) not in set(map(id, op.inputs()))}
    changed = {id(var) for op in trace.ops for var in op.tags.get("changes", ())}
    namer = Namer({var.name for var in trace.variables()})
    before: dict[int, list[Op]] = {}
    exchanged: dict[int, Op] = {}
    for op in trace.ops:
        chain = _chain_of_logits(op, made, changed) if op.target is F.cross_entropy else None
        if chain is None:
            continue
        gather, steps = chain
        _, _, size, rank, group = gather.args
        local: Var = gather.args[0]
        ops: list[Op] = []
        for step in steps:
            shape = (*step.result.value.shape[:-1], step.result.value.shape[-1] // size)
            ops.append(_on_columns(step, local, shape, namer))
            local = ops[-1].result
        target, options = op.args[1] if len(op.args) > 1 else op.kwargs["target"], op.kwargs
        start = rank * local.value.shape[-1]
        arguments = (local, target, options.get("ignore_index", -100), options.get("reduction", "mean"), group, start)
        before[id(op)] = ops
        exchanged[id(op)] = Op(vocabulary_cross_entropy, arguments, {}, op.result, op.location, op.scope)
    if not exchanged:
        return trace
    rewritten = []
    for op in trace.ops:
        rewritten += [*before.get(id(op), []), exchanged.get(id(op), op)]
    return _without_unused(trace.replace(ops=rewritten))


_SHAPES = ("view", "reshape", "flatten", "contiguous", "unsqueeze")
_CASTS = ("to", "float", "double", "type", "upcast")


def _chain_of_logits(op: Op, made: dict[int, Op], changed: set[int]) -> tuple[Op, list[Op]] | None:
    """(the gather of columns, the steps from there to the cross-entropy); None where it is something else."""
    logits = op.args[0] if op.args else op.kwargs.get("input")
    target = op.args[1] if len(op.args) > 1 else op.kwargs.get("target")
    known = {"input", "target", "ignore_index", "reduction"}
    others = {name: value for name, value in op.kwargs.items() if name not in known}
    plain = all(value is None or value is True or value == 0 for value in others.values()) and len(op.args) <= 2
    if not plain or not isinstance(logits, Var) or not isinstance(target, Var):
        return None
    if logits.value.dim() != 2 or target.value.dim() != 1 or target.value.is_floating_point():
        return None
    width = logits.value.shape[-1]
    steps: list[Op] = []
    while id(logits) not in changed:
        step = made.get(id(logits))
        if step is None or not step.args or not isinstance(step.args[0], Var):
            return None
        if getattr(step.target, "__self__", None) is Gather:
            return step, steps[::-1]
        source = step.args[0]
        if source.value.dim() < 2 or source.value.shape[-1] != width or not _keeps_columns(step):
            return None
        steps.append(step)
        logits = source
    return None


def _keeps_columns(step: Op) -> bool:
    if step.name in (*_SHAPES, *_CASTS):
        return True
    index = step.args[1] if step.name == "__getitem__" and len(step.args) == 2 else None
    whole = slice(None, None, None)
    return isinstance(index, tuple) and Ellipsis not in index[1:] and (
        index[-1] == whole if len(index) == step.args[0].value.dim() or Ellipsis in index else True
    )  # fmt: skip


def _on_columns(step: Op, local: Var, shape: tuple[int, ...], namer: Namer) -> Op:
    """The same step on this process's columns."""
    source = step.result.value
    target: Any
    if step.name in _SHAPES:
        target, args = torch.Tensor.reshape, (local, shape)
    elif step.name in _CASTS:
        target, args = torch.Tensor.to, (local, source.dtype)
    else:
        target, args = step.target, (local, *step.args[1:])
    with source.fake_mode, torch.no_grad():
        value = torch.empty(shape, dtype=source.dtype, device=source.device)
    return Op(
        target, args, {}, Var(namer.fresh("t"), value.requires_grad_(source.requires_grad)), step.location, step.scope
    )


def _without_unused(trace: Trace) -> Trace:
    """Drops gathers, and steps behind them, whose results nobody takes any more."""
    used = {id(var) for var in trace.output_vars()}
    kept: list[Op] = []
    for op in reversed(trace.ops):
        droppable = getattr(op.target, "__self__", None) is Gather or op.name in (
            *_SHAPES,
            *_CASTS,
            "__getitem__",
        )
        if droppable and not op.tags.get("changes") and not any(id(var) in used for var in op.outputs()):
            continue
        used |= {id(var) for var in op.inputs()}
        kept.append(op)
    return trace.replace(ops=kept[::-1])
