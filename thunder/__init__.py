"""thunder: a source-to-source compiler for PyTorch.

`thunder.compile(model)` acquires a model's Python as a straight-line program that anyone can print, read and run,
transforms it, and executes it.  Names are imported at their first use, so that `thunder.interpreter` works in a
Python without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "compile": "thunder.recipes",
    "Recipe": "thunder.recipes",
    "Plugin": "thunder.plugins",
    "jit": "thunder.frontend",
    "grad": "thunder.frontend",
    "last_traces": "thunder.frontend",
    "last_backward_traces": "thunder.frontend",
    "last_prologue": "thunder.frontend",
    "last_epilogue": "thunder.frontend",
    "cache_hits": "thunder.frontend",
    "cache_misses": "thunder.frontend",
    "compile_stats": "thunder.frontend",
    "register_kernel": "thunder.kernels",
    "autocast": "thunder.precision",
    "Transform": "thunder.transforms",
    "Executor": "thunder.executors",
}

if TYPE_CHECKING:
    from thunder.executors import Executor as Executor
    from thunder.frontend import cache_hits as cache_hits
    from thunder.frontend import cache_misses as cache_misses
    from thunder.frontend import compile_stats as compile_stats
    from thunder.frontend import last_backward_traces as last_backward_traces
    from thunder.frontend import last_epilogue as last_epilogue
    from thunder.frontend import last_prologue as last_prologue
    from thunder.frontend import last_traces as last_traces
    from thunder.frontend.grad import grad as grad
    from thunder.frontend.jit import jit as jit
    from thunder.kernels import register_kernel as register_kernel
    from thunder.plugins import Plugin as Plugin
    from thunder.precision import autocast as autocast
    from thunder.recipes import Recipe as Recipe
    from thunder.recipes.compile import compile as compile
    from thunder.transforms import Transform as Transform


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), name)
    else:
        try:
            value = importlib.import_module(f"thunder.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"thunder.{name}":
                raise
            raise AttributeError(f"module 'thunder' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
