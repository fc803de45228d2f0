"""Methods that a model compiled with a distributed plugin has beside its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from thunder.distributed.data_parallel import DataParallel
from thunder.distributed.gradient_norm import clip_gradients


class DistributedMethods:
    """Mixed into the compiled model's class."""

    __slots__ = ()
    _thunder: Any  # transformers evaluates the annotations of models' classes

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        """Scales all gradients so that their norm, over all processes, is at most `max_norm`; returns the norm."""
        return clip_gradients(self._thunder.function.parameters(), max_norm, norm_type)


class DataParallelMethods(DistributedMethods):
    """The same with "ddp" and "fsdp"."""

    __slots__ = ()

    def no_sync(self) -> AbstractContextManager[None]:
        """Within the block, backward passes keep gradients to this process: for accumulating several batches."""
        distribution = self._thunder.options.distribution
        assert isinstance(distribution, DataParallel)
        return distribution.no_sync()
