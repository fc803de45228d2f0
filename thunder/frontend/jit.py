"""`thunder.jit`: the low-level entry point, every choice an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.errors import OptionError
from thunder.executors import Executor
from thunder.executors.cuda_graphs import GraphPolicy
from thunder.executors.distribution import Distribution
from thunder.frontend.compiled import CompiledFunction, make_options
from thunder.frontend.module import compile_module


def jit(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    transforms: Sequence[Callable[..., Any]] | None = None,
    executors: Sequence[str | Executor] | None = None,
    cache: str = "constant values",
    sharp_edges: str = "allow",
    on_break: str = "error",
    recompile_limit: int = 16,
    all_dynamic: bool = False,
    cuda_graphs: str | GraphPolicy = "off",
    distribution: Distribution | None = None,
    mixins: tuple[type, ...] = (),
) -> Any:
    """Compiles a function or module; the work is done at the first call.

    Args:
        fn: a function, method or `nn.Module`; without it, a decorator is returned.
        transforms: passes `Trace -> Trace` (see `thunder.Transform`), applied in order.
        executors: names or instances in order of preference; None for the defaults.
        cache: "constant values": guards decide which program fits; "symbolic values": as well, but sizes and ints
            that have varied once become symbols, so that one program fits all of them; "same input": no guards,
            every call is like the first; "no caching": every call is acquired anew.
        sharp_edges: "warn" or "error" report, with the line, Python that reaches outside of the program (printing,
            Python's random numbers, time, files, addresses); whatever it is, the answer is plain Python's.
        on_break: "error" raises when a program cannot be acquired; "eager" runs such calls in plain Python, with one
            warning that names the line.
        all_dynamic: with `cache="symbolic values"`: every size of the arguments' tensors is a symbol from the first
            call on.
        recompile_limit: programs kept for one callable; calls that fit none of so many run in plain Python.
        cuda_graphs: "off"; "inference": programs without gradients are captured in CUDA graphs when their calls
            repeat; "all": programs with gradients too, forward and backward.
        distribution: how programs are spread over processes; what the plugins "ddp", "fsdp" and "tp" make.
        mixins: for a module: classes whose methods the compiled module has in front of its own.

    Returns:
        For a module, a module that shares its state; for a function, a callable.

    Example:
        >>> import torch, thunder
        >>> square = thunder.jit(lambda x: x * x)
        >>> square(torch.tensor(3.0))
        tensor(9.)
    """
    choices = {
        "transforms": transforms,
        "executors": executors,
        "cache": cache,
        "sharp_edges": sharp_edges,
        "on_break": on_break,
        "recompile_limit": recompile_limit,
        "all_dynamic": all_dynamic,
        "cuda_graphs": cuda_graphs,
        "distribution": distribution,
    }
    if fn is None:
        return lambda function: jit(function, mixins=mixins, **choices)  # type: ignore[arg-type]
    options = make_options(**choices)  # type: ignore[arg-type]
    if isinstance(fn, torch.nn.Module):
        return compile_module(fn, options, mixins)
    if not callable(fn):
        raise OptionError(
            f"thunder.jit takes a function or a module, not {type(fn).__qualname__}", remedy="pass a callable"
        )
    if isinstance(fn, CompiledFunction):
        fn = fn.function
    return CompiledFunction(fn, options)
