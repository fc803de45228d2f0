"""`thunder.compile`: a recipe and plugins, applied to a model or function."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.dynamo import backend
from thunder.frontend import is_compiled_module, jit, original_module
from thunder.frontend.inspection import compiled_function
from thunder.plugins import Plugin, check_together, resolve_plugins
from thunder.recipes.recipe import Recipe, get_recipe


def compile(
    model_or_fn: Callable[..., Any],
    recipe: str | Recipe = "auto",
    plugins: str | Plugin | Sequence[str | Plugin] | None = None,
    *,
    dynamic: bool | None = None,
) -> Any:
    """Compiles a model or function; the work is done at its first call.

    Args:
        model_or_fn: an `nn.Module` or a function.
        recipe: a name or a `Recipe`; "auto" chooses by the model and the machine.
        dynamic: None: sizes and numbers become symbols after they have varied once; True: all sizes of the arguments
            are symbols from the start; False: every new size is compiled anew.
        plugins: one or several names or `Plugin`s, applied in order.

    Returns:
        A module that shares the model's state, or a callable.

    Raises:
        OptionError: for an unknown name, listing the known ones, and for plugins that cannot be used together.
        QuantizationError: for layers that cannot be quantised as asked; the model is then as before.

    Example:
        >>> import torch, thunder
        >>> model = thunder.compile(torch.nn.Linear(4, 2))
        >>> model(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """
    choices = get_recipe(recipe).choices(model_or_fn)
    resolved = resolve_plugins(plugins)
    check_together(resolved)
    if resolved and isinstance(model_or_fn, torch.nn.Module) and is_compiled_module(model_or_fn):
        model_or_fn = original_module(model_or_fn)
    for plugin in resolved:
        plugin.check(model_or_fn)
    for number, plugin in enumerate(resolved):
        plugin.check_after(resolved[:number], model_or_fn)
    for plugin in resolved:
        choices = plugin.apply(choices, model_or_fn)
    if choices.front_end == "dynamo":
        options = {"transforms": choices.transforms, "executors": choices.executors}
        return torch.compile(model_or_fn, backend=functools.partial(backend, options=options), dynamic=dynamic)
    choices.options.setdefault("cache", "constant values" if dynamic is False else "symbolic values")
    choices.options.setdefault("all_dynamic", dynamic is True)
    # The loop of `thunder.generate` runs prompts uncompiled; transformers' own loop calls the compiled model.
    distribution = choices.options.get("distribution")
    if _generates(model_or_fn) and (distribution is None or distribution.runs_uncompiled):
        methods = importlib.import_module("thunder.generate").GenerationMethods
        choices.options["mixins"] = (*choices.options.get("mixins", ()), methods)
    compiled = jit(model_or_fn, transforms=choices.transforms, executors=choices.executors, **choices.options)
    if choices.notes:
        compiled_function(compiled).statistics.notes.append(choices.notes)
    return compiled


def _generates(target: Any) -> bool:
    """Whether it is a Hugging Face model with `generate`."""
    return isinstance(target, torch.nn.Module) and any(
        kind.__name__ == "GenerationMixin" and kind.__module__.startswith("transformers.")
        for kind in type(target).__mro__
    )
