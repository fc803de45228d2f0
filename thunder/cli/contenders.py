"""The ways of running a model that are measured side by side.

Input: a model.  Output: a callable that takes the model's arguments.  Compilation happens at the first call.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import thunder
from thunder.errors import unknown_name


@dataclass(frozen=True)
class Contender:
    """One way of running a model.

    Attributes:
        compile: turns the model into the callable that is timed.
        plain_calls: how many calls of that callable ran uncompiled although they should have been.
        devices: the kinds of device that it is measured on.
        kinds: the kinds of workload that it is measured on; None for all.
        generate: further keyword arguments of `generate`.
        requires: a package without which it is left out.
    """

    name: str
    compile: Callable[[nn.Module], Any]
    plain_calls: Callable[[Any], int] = lambda compiled: 0
    devices: tuple[str, ...] = ("cpu", "cuda")
    kinds: tuple[str, ...] | None = None
    generate: tuple[tuple[str, Any], ...] = ()
    requires: str | None = None

    def applies(self, device: str, kind: str) -> bool:
        """Whether it is measured on workloads of this kind on this device, in this environment."""
        return (
            torch.device(device).type in self.devices
            and (self.kinds is None or kind in self.kinds)
            and (self.requires is None or importlib.util.find_spec(self.requires) is not None)
        )


def plain_calls_of_thunder(compiled: Any) -> int:
    return int(thunder.compile_stats(compiled).plain_calls)


def with_liger(model: nn.Module) -> nn.Module:
    """The model with Liger's kernels in place of its own norms, activations and loss."""
    liger = importlib.import_module("liger_kernel.transformers.monkey_patch")
    liger._apply_liger_kernel_to_instance(model)
    return model


_CALLS = ("inference", "training", "optimisation")

EAGER = Contender("eager", lambda model: model)
TORCH_COMPILE_EAGER = Contender(
    "torch.compile (eager)", lambda model: torch.compile(model, backend="eager"), devices=("cpu",)
)
TORCH_COMPILE = Contender("torch.compile", lambda model: torch.compile(model))
TORCH_REDUCE_OVERHEAD = Contender(
    "torch.compile (reduce-overhead)",
    lambda model: torch.compile(model, mode="reduce-overhead"),
    devices=("cuda",),
    kinds=_CALLS,
)
TORCH_MAX_AUTOTUNE = Contender(
    "torch.compile (max-autotune)",
    lambda model: torch.compile(model, mode="max-autotune"),
    devices=("cuda",),
    kinds=_CALLS,
)
TRANSFORMERS_STATIC = Contender(
    "transformers (static cache, compiled)",
    lambda model: model,
    devices=("cuda",),
    kinds=("generation",),
    generate=(("cache_implementation", "static"),),
)
LIGER = Contender("Liger", with_liger, devices=("cuda",), kinds=("training",), requires="liger_kernel")
THUNDER_EAGER = Contender(
    "thunder (eager)",
    lambda model: thunder.jit(model, executors=["eager"]),
    plain_calls_of_thunder,
    devices=("cpu",),
)
THUNDER = Contender("thunder", lambda model: thunder.compile(model), plain_calls_of_thunder)
THUNDER_REDUCE_OVERHEAD = Contender(
    "thunder (reduce-overhead)",
    lambda model: thunder.compile(model, plugins="reduce-overhead"),
    plain_calls_of_thunder,
    devices=("cuda",),
    kinds=("training",),
)

CONTENDERS = {
    contender.name: contender
    for contender in (
        EAGER, TORCH_COMPILE_EAGER, TORCH_COMPILE, TORCH_REDUCE_OVERHEAD, TORCH_MAX_AUTOTUNE, TRANSFORMERS_STATIC,
        LIGER, THUNDER_EAGER, THUNDER, THUNDER_REDUCE_OVERHEAD,
    )
}  # fmt: skip


def select_contenders(contenders: Iterable[Contender], names: list[str] | None) -> list[str]:
    """The names of those contenders that are asked for, in their own order; all when none is named."""
    known = [contender.name for contender in contenders]
    for name in names or []:
        if name not in known:
            raise unknown_name("contender", name, known)
    return [name for name in known if not names or name in names]
