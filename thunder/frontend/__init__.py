"""The front end: calls, specialisations, compiled modules and their inspection."""

from thunder.frontend.compiled import CompiledFunction, Entry, Options, make_options
from thunder.frontend.grad import grad
from thunder.frontend.inspection import (
    CompileStats,
    cache_hits,
    cache_misses,
    compile_stats,
    last_backward_traces,
    last_epilogue,
    last_prologue,
    last_traces,
)
from thunder.frontend.jit import jit
from thunder.frontend.module import compile_module, is_compiled_module, original_module

__all__ = [
    "CompileStats",
    "CompiledFunction",
    "Entry",
    "Options",
    "cache_hits",
    "cache_misses",
    "compile_module",
    "compile_stats",
    "grad",
    "is_compiled_module",
    "jit",
    "last_backward_traces",
    "last_epilogue",
    "last_prologue",
    "last_traces",
    "make_options",
    "original_module",
]
