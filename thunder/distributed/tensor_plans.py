"""Plans for tensor parallelism: which style each module of a model has.

Input: a model and perhaps a plan (module-name pattern -> style).  Output: the style of each module that is divided.
A plan that nobody gave is the one that the model brings with it, or one made from its structure.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from thunder.distributed.parallel_linear import is_transposed
from thunder.errors import ShardingPlanError

STYLES = (
    "colwise",
    "colwise_gather_output",
    "rowwise",
    "rowwise_split_input",
    "packed_colwise",
    "embedding_rowwise",
    "moe_tp_experts",
    "replicated_with_grad_allreduce",
    "replicate",
)


def automatic_plan(model: torch.nn.Module, processes: int = 1) -> dict[str, str]:
    """The plan that a transformers model brings with it, that of LitGPT's decoders, or one made from the structure.

    Args:
        model: not yet divided.
        processes: layers of a structure without a plan, and vocabularies, that they do not divide stay whole.

    Raises:
        ShardingPlanError: there is none.
    """
    names = [name for name, _ in model.named_modules()]
    if type(model).__module__.startswith("litgpt."):
        return {pattern: style for pattern, style in _LITGPT.items() if any(_matches(pattern, name) for name in names)}
    plan: dict[str, str] = dict(getattr(model, "_tp_plan", None) or {})
    own = getattr(getattr(model, "config", None), "base_model_tp_plan", None)
    if own:
        prefix = getattr(model, "base_model_prefix", "")
        prefix = f"{prefix}." if prefix and hasattr(model, prefix) else ""
        plan = {**plan, **{f"{prefix}{pattern}": style for pattern, style in own.items()}}
    plan = {pattern: style for pattern, style in plan.items() if any(_matches(pattern, name) for name in names)}
    if not own or any(style not in STYLES for style in plan.values()):
        plan = _plan_of_structure(model, processes)
    if not plan:
        raise ShardingPlanError(
            f"{type(model).__qualname__} brings no plan for tensor parallelism",
            remedy="pass plan={'layers.*.up': 'colwise', 'layers.*.down': 'rowwise', ...}",
        )
    for pattern in [pattern for pattern, style in plan.items() if style == "moe_tp_experts"]:
        found = [module for name, module in model.named_modules() if _matches(pattern, name)]
        if not all(map(takes_routing, found)):
            del plan[pattern]  # they stay whole
    return plan | _plan_of_vocabulary(model, plan, processes)


_LITGPT = {
    "transformer.wte": "embedding_rowwise",
    "transformer.h.*.attn.qkv": "packed_colwise",
    "transformer.h.*.attn.proj": "rowwise",
    "transformer.h.*.mlp.fc": "colwise",
    "transformer.h.*.mlp.fc_1": "colwise",
    "transformer.h.*.mlp.fc_2": "colwise",
    "transformer.h.*.mlp.proj": "rowwise",
    "lm_head": "colwise_gather_output",
}


def _plan_of_vocabulary(model: torch.nn.Module, plan: Mapping[str, str], processes: int) -> dict[str, str]:
    """The embedding by rows and the head by columns; "replicate" for both where they cannot be divided.

    A tied head and embedding are one parameter, divided by rows in both places.
    """
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    with_names = {id(module): name for name, module in model.named_modules()}
    styles: dict[str, str] = {}
    if isinstance(embedding, torch.nn.Embedding) and id(embedding) in with_names:
        styles[with_names[id(embedding)]] = "embedding_rowwise"
    if isinstance(head, torch.nn.Linear) and id(head) in with_names:
        styles[with_names[id(head)]] = "colwise_gather_output"
    are_tied = head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", ())
    can_embed = isinstance(embedding, torch.nn.Embedding) and why_not_by_rows(embedding) is None
    for module, is_divisible in (
        (embedding, can_embed and embedding.num_embeddings % processes == 0),
        (head, isinstance(head, torch.nn.Linear) and head.out_features % processes == 0),
    ):
        name = with_names.get(id(module))
        if name in styles and not is_divisible:
            for whole in styles if are_tied else [name]:
                styles[whole] = "replicate"
    planned = {name for name in styles if any(_matches(pattern, name) for pattern in plan)}
    return {name: style for name, style in styles.items() if name not in planned or style == "replicate"}


def takes_routing(module: torch.nn.Module) -> bool:
    """Whether a module is all experts of a layer, as transformers builds them: stacked weights, called with the
    experts and the weights of each token."""
    names = [*inspect.signature(type(module).forward).parameters][1:]
    if len(names) != 3 or not all(word in name for word, name in zip(("hidden", "ind", "weights"), names)):
        return False
    count = getattr(module, "num_experts", None)
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    inner = [parameter for child in module.children() for parameter in child.parameters()]
    return bool(own) and not inner and all(p.dim() > 1 and p.shape[0] == count for p in own)


def why_not_by_rows(embedding: torch.nn.Embedding) -> str | None:
    """Why an embedding cannot be divided by rows; None when it can."""
    if embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse:
        return "its rows depend on one another (max_norm, scale_grad_by_freq) or have sparse gradients"
    if type(embedding).forward is not torch.nn.Embedding.forward and not hasattr(embedding, "embed_scale"):
        return "its forward is its own"
    return None


# Of the linear layers that a module has beside nothing else with parameters, the first ones make what the last takes.
_PAIRS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("fc_in",), "fc_out"),
    (("c_fc",), "c_proj"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
)


def _plan_of_structure(model: torch.nn.Module, processes: int) -> dict[str, str]:
    """A plan for a language model of transformers that brings none: right whatever attention does.

    Linear layers of the repeated layers are divided by columns, and their results gathered; an MLP's last one by rows.
    """
    can_generate = getattr(model, "can_generate", lambda: False)
    if not type(model).__module__.startswith("transformers.") or not can_generate():
        return {}
    plan: dict[str, str] = {}
    stay: set[str] = set()
    for path, parent in model.named_modules():
        children = {name: child for name, child in parent.named_children() if _has_parameters(child)}
        for columns, row in _PAIRS:
            if {*children} == {*columns, row} and all(map(_is_linear, children.values())):
                plan |= {_generic(f"{path}.{name}"): "colwise" for name in columns}
                plan[_generic(f"{path}.{row}")] = "rowwise"
                stay |= {_generic(f"{path}.{name}") for name in columns if _width(children[name]) % processes}
        for name, child in children.items():
            if _is_linear(child) and any(part.isdecimal() for part in path.split(".")):
                pattern = _generic(f"{path}.{name}")
                if plan.setdefault(pattern, "colwise_gather_output") == "colwise_gather_output":
                    stay |= {pattern} if _width(child) % processes else set()
    broken = {pattern.rpartition(".")[0] for pattern in stay if plan[pattern] == "colwise"}
    return {p: style for p, style in plan.items() if p not in stay and p.rpartition(".")[0] not in broken}


def _is_linear(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear or is_transposed(module)


def _width(module: Any) -> int:
    return int(module.nf if is_transposed(module) else module.out_features)


_NORMS_OF_LAYERS = (("input_layernorm", "post_attention_layernorm"), ("norm_1", "norm_2"))
_LAST_NORMS = ("norm", "ln_f")


def sequence_norms(model: torch.nn.Module, matched: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """(the first decoder layer, all norms) of a model whose layers have a norm before attention and one before the MLP.

    Args:
        model: not yet divided.
        matched: the style of each module that has one.

    Raises:
        ShardingPlanError: it is no such model, or something within its layers is not divided: that would take whole
            gradients for shares of a sum.
    """
    styles = {id(model.get_submodule(name)): style for name, style in matched.items()}
    for names in _NORMS_OF_LAYERS:
        layers = [m for m in model.modules() if all(hasattr(m, name) for name in names)]
        holders = [m for m in model.modules() if any(hasattr(m, name) for name in _LAST_NORMS)]
        plain = [m for m in layers if [*_norms_of(m)] == [*names]]
        if layers and len(plain) == len(layers) and len(holders) == 1:
            for layer in layers:
                for name, module in layer.named_modules():
                    is_whole = styles.get(id(module), "replicate") in ("replicate", "moe_tp_experts")
                    if _has_parameters(module) and name not in names and is_whole:
                        raise ShardingPlanError(
                            f"with sequence_parallel=True all of a layer has to be divided, and {name!r} is not",
                            remedy="name it in the plan, or leave sequence_parallel=True out",
                        )
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
