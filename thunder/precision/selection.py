"""Which linear layers of a model are quantised: all, but for embeddings, heads and adapters, or those of patterns.

A pattern is matched against a module's full name (`model.layers.3.mlp.up_proj`): a text with `*` and `?` as in a
shell, which fits the whole name or a run of its parts between dots (`mlp` fits what is in any module `mlp`,
`layers.3` everything of that layer, `*_proj` every projection); a compiled regular expression, which is searched for;
or a function `(name, module) -> bool`.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union

from torch import nn

from thunder.errors import OptionError, QuantizationError
from thunder.precision.layer import QuantizedLinear, is_linear, layer_shape

Pattern = Union[str, "re.Pattern[str]", Callable[[str, nn.Module], bool]]
Patterns = Union[Pattern, Sequence[Pattern], None]  # noqa: UP007  (evaluated on Python 3.10)

HEAD_NAMES = frozenset(
    {"lm_head", "head", "heads", "embed_out", "output_head", "unembed", "classifier", "score", "qa_outputs"}
)
ADAPTER_PARTS = re.compile(r"(^|\.)(lora_\w+|vera_\w+|adapter\w*|modules_to_save)(\.|$)")


def as_list(patterns: Patterns) -> list[Pattern]:
    """One pattern or several as a list; `OptionError` for anything else."""
    if patterns is None:
        return []
    if _is_pattern(patterns):
        return [patterns]  # type: ignore[list-item]
    listed = list(patterns) if isinstance(patterns, Iterable) else []
    if not listed or not all(_is_pattern(pattern) for pattern in listed):
        raise OptionError(
            f"{patterns!r} names no modules",
            remedy="a text such as 'mlp' or '*_proj', a compiled regular expression, a function of name and module, or "
            "several of these; None for the default",
        )
    return listed


def _is_pattern(value: Any) -> bool:
    return isinstance(value, (str, re.Pattern)) or callable(value)


def fits(pattern: Pattern, name: str, module: nn.Module) -> bool:
    """Whether a pattern selects a module."""
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f".{name}.", f"*.{pattern}.*")
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return bool(pattern(name, module))


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a model by name, quantised ones too; each once."""
    return {
        name: module
        for name, module in model.named_modules()
        if is_linear(module) or isinstance(module, QuantizedLinear)
    }


def head_names(model: nn.Module, layers: dict[str, nn.Module]) -> set[str]:
    """Names of the layers that make a model's outputs, and of those that share an embedding's weight."""
    found = {name for name in layers if name.rpartition(".")[2] in HEAD_NAMES}
    output = getattr(model, "get_output_embeddings", None)
    head = None
    if callable(output):
        try:
            head = output()
        except (AttributeError, NotImplementedError):  # models without a head may say so
            head = None
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    shared = {id(embedding.weight) for embedding in embeddings}
    for name, module in layers.items():
        weight = module._parameters.get("weight")
        if module is head or (weight is not None and id(weight) in shared):
            found.add(name)
    if layers:
        name, module = list(layers.items())[-1]
        if any(layer_shape(module) == tuple(embedding.weight.shape) for embedding in embeddings):
            found.add(name)
    return found


def select_layers(model: nn.Module, include: Patterns = None, exclude: Patterns = None) -> dict[str, nn.Module]:
    """The layers to quantise, by name, in the model's order.

    Args:
        include: patterns; without them, every linear layer but heads (also those that share an embedding's weight)
            and adapters.
        exclude: patterns of layers to leave alone.

    Raises:
        QuantizationError: for a pattern that fits no linear layer, and when nothing is left to quantise.
    """
    layers = linear_layers(model)
    if not layers:
        raise QuantizationError(
            f"{type(model).__name__} has no linear layer that can be quantised",
            remedy="layers are nn.Linear (no subclass) or Conv1D of transformers",
        )
    for kind, patterns in (("include", as_list(include)), ("exclude", as_list(exclude))):
        for pattern in patterns:
            if not any(fits(pattern, name, module) for name, module in layers.items()):
                raise QuantizationError(f"{kind}={pattern!r} fits no linear layer", remedy=_known(pattern, layers))
    if as_list(include):
        chosen = [name for name, module in layers.items() if _fits_any(include, name, module)]
    else:
        heads = head_names(model, layers)
        chosen = [name for name in layers if name not in heads and not ADAPTER_PARTS.search(name)]
    chosen = [name for name in chosen if not _fits_any(exclude, name, layers[name])]
    fresh = {name: layers[name] for name in chosen if not isinstance(layers[name], QuantizedLinear)}
    if not fresh:
        if chosen:
            raise QuantizationError(
                "all selected layers are quantised already",
                remedy="quantise a fresh copy of the original model, or select other layers by include=",
            )
        raise QuantizationError(
            f"no layer of {type(model).__name__} is left to quantise: heads and adapters are left alone by default",
            remedy=f"name layers by include=; linear layers: {_listed(list(layers))}",
        )
    return fresh


def _fits_any(patterns: Patterns, name: str, module: nn.Module) -> bool:
    return any(fits(pattern, name, module) for pattern in as_list(patterns))


def _known(pattern: Pattern, layers: Iterable[str]) -> str:
    names = list(layers)
    near: list[str] = []
    if isinstance(pattern, str):
        parts = dict.fromkeys(part for name in names for part in reversed(name.split(".")) if not part.isdigit())
        near = difflib.get_close_matches(pattern, [*parts, *names], n=3, cutoff=0.6)
    return f"did you mean {', '.join(near)}?" if near else f"linear layers: {_listed(names)}"


def _listed(names: list[Any], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
