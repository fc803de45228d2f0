"""What a pipeline can be asked for: schedules of `torch.distributed.pipelining` by name, and the other options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import pipelining

SCHEDULES: dict[str, Any] = {
    "gpipe": pipelining.ScheduleGPipe,
    "1f1b": pipelining.Schedule1F1B,
    "interleaved": pipelining.ScheduleInterleaved1F1B,
    "zero-bubble": pipelining.ScheduleInterleavedZeroBubble,
    "zbv": pipelining.ScheduleZBVZeroBubble,
}
SPLITS_BACKWARD = ("zero-bubble", "zbv")


@dataclass(frozen=True)
class PipelineOptions:
    """What the plugin "pp" leaves to the user.

    Attributes:
        schedule: a key of `SCHEDULES`.
        microbatches: parts that a batch is divided into.
        stages_per_rank: stages of each process.
        begins: modules at which the second and later stages begin; None for stages of about equal cost.
        loss: `loss(output, *targets)`; None: the model's output is the loss, or has it as `.loss`.
        timeout: seconds that other processes may take to come to a program that is new.
    """

    schedule: str
    microbatches: int
    stages_per_rank: int
    begins: tuple[str, ...] | None
    loss: Callable[..., torch.Tensor] | None
    timeout: float
