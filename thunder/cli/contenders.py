"""The ways of running a model that are measured side by side.

Input: a model.  Output: a callable that takes the model's arguments.  Compilation happens at the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import thunder


@dataclass(frozen=True)
class Contender:
    """One way of running a model: `compile` turns the model into the callable that is timed."""

    name: str
    compile: Callable[[nn.Module], Any]


EAGER = Contender("eager", lambda model: model)
TORCH_COMPILE_EAGER = Contender("torch.compile (eager)", lambda model: torch.compile(model, backend="eager"))
TORCH_COMPILE = Contender("torch.compile", lambda model: torch.compile(model))
THUNDER_EAGER = Contender("thunder (eager)", lambda model: thunder.jit(model, executors=["eager"]))
THUNDER = Contender("thunder", lambda model: thunder.compile(model))

CONTENDERS = {
    contender.name: contender
    for contender in (EAGER, TORCH_COMPILE_EAGER, TORCH_COMPILE, THUNDER_EAGER, THUNDER)
}
