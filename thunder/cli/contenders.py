"""The ways of running a model that are measured side by side.

Input: a model.  Output: a callable that takes the model's arguments.  Compilation happens at the first call.
"""

from __future__ import annotations

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
    """

    name: str
    compile: Callable[[nn.Module], Any]
    plain_calls: Callable[[Any], int] = lambda compiled: 0


def plain_calls_of_thunder(compiled: Any) -> int:
    return int(thunder.compile_stats(compiled).plain_calls)


EAGER = Contender("eager", lambda model: model)
TORCH_COMPILE_EAGER = Contender("torch.compile (eager)", lambda model: torch.compile(model, backend="eager"))
TORCH_COMPILE = Contender("torch.compile", lambda model: torch.compile(model))
THUNDER_EAGER = Contender(
    "thunder (eager)", lambda model: thunder.jit(model, executors=["eager"]), plain_calls_of_thunder
)
THUNDER = Contender("thunder", lambda model: thunder.compile(model), plain_calls_of_thunder)

CONTENDERS = {
    contender.name: contender
    for contender in (EAGER, TORCH_COMPILE_EAGER, TORCH_COMPILE, THUNDER_EAGER, THUNDER)
}


def select_contenders(contenders: Iterable[Contender], names: list[str] | None) -> list[str]:
    """The names of those contenders that are asked for, eager always among them; all when none is named."""
    known = [contender.name for contender in contenders]
    for name in names or []:
        if name not in known:
            raise unknown_name("contender", name, known)
    return [name for name in known if not names or name in names or name == EAGER.name]
