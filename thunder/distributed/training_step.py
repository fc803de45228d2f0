"""The programs that a pipeline runs, as modules that are acquired like the user's own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Forward(torch.nn.Module):
    """The model's call."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.model(*args, **kwargs)


class TrainingStep(torch.nn.Module):
    """The loss of the model's call; without a loss function the output is the loss, or has it as `.loss`."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., torch.Tensor] | None) -> None:
        super().__init__()
        self.model = model
        self.loss_function = loss

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any], targets: tuple[Any, ...]) -> Any:
        output = self.model(*args, **kwargs)
        if self.loss_function is not None:
            return self.loss_function(output, *targets)
        return output if isinstance(output, torch.Tensor) else output.loss
