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
import fnmatch
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.nn import functional as F

from thunder.distributed.collectives import Group
from thunder.distributed.initialise import broadcast_from_first
from thunder.distributed.layout import rows_of
from thunder.distributed.mesh import group_of
from thunder.distributed.parallel_linear import (
    Enter,
    Gather,
    Rows,
    column_linear,
    gathered_norm,
    packed_linear,
    row_embedding,
    row_linear,
    select_rows,
    split_sequence,
    vocabulary_cross_entropy,
)
from thunder.errors import MeshError, ShardingPlanError
from thunder.trace import Namer, Op, Trace, Var, map_vars

STYLES = (
    "colwise",
    "colwise_gather_output",
    "rowwise",
    "rowwise_split_input",
    "packed_colwise",
    "embedding_rowwise",
    "replicated_with_grad_allreduce",
    "replicate",
)


def parallelise(
    model: torch.nn.Module,
    mesh: DeviceMesh,
    plan: Mapping[str, str] | None,
    *,
    synchronise: bool,
    sequence_parallel: bool = False,
) -> list[torch.nn.Parameter]:
    """Divides the modules that a plan names; returns the parameters whose gradients have to be added up.

    Args:
        model: changed in place.
        mesh: of one dimension.
        plan: style by pattern of module names (`*` stands for anything but dots); None for the model's own.
        synchronise: whether parameters and buffers are taken from the first process.
        sequence_parallel: whether norms, dropout and residual sums are divided along the sequence.

    Raises:
        ShardingPlanError: a pattern names nothing, a style is unknown or does not fit its module.
        MeshError: the number of processes does not divide a layer.
    """
    group = group_of(mesh)
    matched = match_plan(model, plan if plan is not None else automatic_plan(model))
    styles = _Styles(model, mesh, group, sequence_parallel)
    norms = sequence_norms(model) if sequence_parallel else None
    for name, style in matched.items():
        styles.check(name, model.get_submodule(name), style)
    if synchronise:
        broadcast_from_first([*model.parameters(), *model.buffers()], mesh)
    for name, style in matched.items():
        styles.apply(model.get_submodule(name), style)
    styles.divide_heads()
    if norms is not None:
        styles.divide_sequence(*norms)
    return styles.summed


def automatic_plan(model: torch.nn.Module) -> dict[str, str]:
    """The plan that a transformers model brings with it, or that of LitGPT's decoders.

    Raises:
        ShardingPlanError: there is none.
    """
    plan: dict[str, str] = dict(getattr(model, "_tp_plan", None) or {})
    own = getattr(getattr(model, "config", None), "base_model_tp_plan", None)
    if own:
        prefix = getattr(model, "base_model_prefix", "")
        prefix = f"{prefix}." if prefix and hasattr(model, prefix) else ""
        plan = {**plan, **{f"{prefix}{pattern}": style for pattern, style in own.items()}}
    if plan:
        # A tied head and embedding are one parameter, divided by rows in both places.
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
        with_names = {id(module): name for name, module in model.named_modules()}
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if isinstance(embedding, torch.nn.Embedding) and id(embedding) in with_names:
            plan.setdefault(with_names[id(embedding)], "embedding_rowwise")
        if isinstance(head, torch.nn.Linear) and id(head) in with_names:
            plan.setdefault(with_names[id(head)], "colwise_gather_output")
        names = [name for name, _ in model.named_modules()]
        return {pattern: style for pattern, style in plan.items() if any(_matches(pattern, name) for name in names)}
    if type(model).__module__.startswith("litgpt."):
        names = [name for name, _ in model.named_modules()]
        found = {
            "transformer.wte": "embedding_rowwise",
            "transformer.h.*.attn.qkv": "packed_colwise",
            "transformer.h.*.attn.proj": "rowwise",
            "transformer.h.*.mlp.fc": "colwise",
            "transformer.h.*.mlp.fc_1": "colwise",
            "transformer.h.*.mlp.fc_2": "colwise",
            "transformer.h.*.mlp.proj": "rowwise",
            "lm_head": "colwise_gather_output",
        }
        return {pattern: style for pattern, style in found.items() if any(_matches(pattern, name) for name in names)}
    raise ShardingPlanError(
        f"{type(model).__qualname__} brings no plan for tensor parallelism",
        remedy="pass plan={'layers.*.up': 'colwise', 'layers.*.down': 'rowwise', ...}",
    )


_NORMS_OF_LAYERS = (("input_layernorm", "post_attention_layernorm"), ("norm_1", "norm_2"))
_LAST_NORMS = ("norm", "ln_f")


def sequence_norms(model: torch.nn.Module) -> tuple[Any, list[Any]]:
    """(the first decoder layer, all norms) of a model whose layers have a norm before attention and one before the MLP.

    Raises:
        ShardingPlanError: it is no such model.
    """
    for names in _NORMS_OF_LAYERS:
        layers = [m for m in model.modules() if all(hasattr(m, name) for name in names)]
        holders = [m for m in model.modules() if any(hasattr(m, name) for name in _LAST_NORMS)]
        plain = [m for m in layers if [*_norms_of(m)] == [*names]]
        if layers and len(plain) == len(layers) and len(holders) == 1:
            last = next(getattr(holders[0], name) for name in _LAST_NORMS if hasattr(holders[0], name))
            return layers[0], [*(getattr(layer, name) for layer in layers for name in names), last]
    raise ShardingPlanError(
        f"{type(model).__qualname__} has no layers with a norm before attention and one before the MLP",
        remedy="sequence_parallel=True is for decoders built like Llama; leave it out",
    )


def _norms_of(layer: torch.nn.Module) -> Iterator[str]:
    """Names of a layer's norms."""
    for name, child in layer.named_children():
        if "norm" in name and not isinstance(child, torch.nn.Identity):
            yield name


def match_plan(model: torch.nn.Module, plan: Mapping[str, str]) -> dict[str, str]:
    """Style by module name; the first pattern that fits counts.

    Raises:
        ShardingPlanError: a pattern names no module, or a style is unknown.
    """
    names = [name for name, _ in model.named_modules() if name]
    matched: dict[str, str] = {}
    for pattern, style in plan.items():
        if style not in STYLES:
            raise ShardingPlanError(
                f"the plan asks for {style!r} for {pattern!r}", remedy=f"known styles: {', '.join(STYLES)}"
            )
        found = [name for name in names if _matches(pattern, name)]
        if not found:
            leaves = sorted({_generic(name) for name, module in model.named_modules() if _has_parameters(module)})
            raise ShardingPlanError(
                f"the plan names {pattern!r}, and the model has no such module",
                remedy=f"it has: {', '.join(leaves[:30])}",
            )
        for name in found:
            matched.setdefault(name, style)
    if not matched:
        raise ShardingPlanError("the plan is empty", remedy="name the modules that are to be divided")
    return matched


def _matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern, part by part."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _generic(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _has_parameters(module: torch.nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


class _Styles:
    """Divides modules, one after the other.

    Attributes:
        summed: parameters that stay whole and whose gradients have to be added up.
    """

    def __init__(self, model: torch.nn.Module, mesh: DeviceMesh, group: Group, sequence: bool) -> None:
        self.model, self.mesh, self.group, self.sequence = model, mesh, group, sequence
        self.summed: list[torch.nn.Parameter] = []
        self._made: dict[tuple[int, int], torch.nn.Parameter] = {}
        self._keep: list[torch.nn.Parameter] = []  # an id says nothing of a parameter that is gone
        self._attentions: list[Any] = []

    def check(self, name: str, module: torch.nn.Module, style: str) -> None:
        """Raises when the style does not fit the module."""
        wanted: tuple[type, ...] = (torch.nn.Module,)
        if style == "embedding_rowwise":
            wanted = (torch.nn.Embedding,)
        elif style not in ("replicate", "replicated_with_grad_allreduce"):
            wanted = (torch.nn.Linear,)
        # Layers with a `product` (thunder.precision) compute it from parts as they do from the whole.
        is_plain = type(module).forward is getattr(wanted[0], "forward", None) or hasattr(module, "product")
        if not isinstance(module, wanted) or (wanted != (torch.nn.Module,) and not is_plain):
            raise ShardingPlanError(
                f"the plan asks for {style!r} for {name!r}, which is a {type(module).__qualname__}",
                remedy=f"{style!r} is for {' or '.join(kind.__qualname__ for kind in wanted)} with its own forward",
            )
        ranges: list[tuple[int, int]] = []
        if style.startswith("colwise") or style == "packed_colwise":
            count, what = module.out_features, "output features"
        elif style.startswith("rowwise"):
            count, what = module.in_features, "input features"
        elif style == "embedding_rowwise":
            count, what = module.num_embeddings, "rows"
        else:
            return
        self._divides(name, int(count), what)  # type: ignore[arg-type]
        parent = self.model.get_submodule(name.rpartition(".")[0])
        head = getattr(parent, "head_dim", None)
        if isinstance(head, int) and style == "colwise" and int(count) % head == 0:  # type: ignore[arg-type]
            self._divides(name, int(count) // head, "heads")  # type: ignore[arg-type]
        if style == "packed_colwise":
            for heads in _packed_parts(name, parent, module):
                self._divides(name, heads[0], "heads")
            ranges = [*self._rows(parent, module)]
        if isinstance(module, torch.nn.Linear) and hasattr(module, "keep_part"):
            own = rows_of(int(count), self.group.size, self.group.rank)  # type: ignore[arg-type]
            dimension = 1 if style.startswith("rowwise") else 0
            reason = module.why_indivisible(dimension, ranges or [(own.start, own.stop)])  # type: ignore[operator]
            if reason is not None:
                raise ShardingPlanError(
                    f"{name!r} cannot be divided among {self.group.size} processes: {reason}",
                    remedy="quantise with smaller groups, leave the layer out of the plan, or do not quantise it",
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
        if style in ("colwise", "colwise_gather_output"):
            self._divide(module, {"weight": 0, "bias": 0})
            gathers = style == "colwise_gather_output"
            module.forward = functools.partial(column_linear, module, group, gathers, not self.sequence)
        elif style in ("rowwise", "rowwise_split_input"):
            self._divide(module, {"weight": 1})
            splits = style == "rowwise_split_input"
            module.forward = functools.partial(row_linear, module, group, splits, self.sequence)
            if self.sequence and module.bias is not None:
                self.summed.append(module.bias)
        elif style == "embedding_rowwise":
            rows = rows_of(module.num_embeddings, group.size, group.rank)
            self._divide(module, {"weight": 0})
            module.forward = functools.partial(row_embedding, module, group, rows.start)
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
        elif style == "replicated_with_grad_allreduce":
            self.summed += list(module.parameters())

    def _rows(self, parent: Any, module: Any) -> Iterator[tuple[int, int]]:
        """The rows of each packed part that are this process's."""
        start = 0
        for heads, size in _packed_parts("", parent, module):
            own = rows_of(heads, self.group.size, self.group.rank)
            yield start + own.start * size, start + own.stop * size
            start += heads * size

    def _divide(self, module: Any, dimensions: dict[str, int]) -> None:
        if hasattr(module, "keep_part"):
            dimension = dimensions["weight"]
            own = rows_of((module.out_features, module.in_features)[dimension], self.group.size, self.group.rank)
            module.keep_part(dimension, [(own.start, own.stop)])
        for name, dimension in dimensions.items():
            parameter = module._parameters.get(name)
            if parameter is None:
                continue
            key = (id(parameter), dimension)
            if key not in self._made:
                self._keep.append(parameter)
                self._made[key] = _part(parameter, self.mesh, dimension)
            module._parameters[name] = self._made[key]

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
