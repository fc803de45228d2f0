"""Methods that a model compiled with a distributed plugin has beside its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from thunder.distributed.data_parallel import DataParallel
from thunder.distributed.gradient_norm import clip_gradients
from thunder.distributed.pipeline import Pipeline


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


class PipelineMethods(DistributedMethods):
    """The same with "pp"."""

    __slots__ = ()

    def train_step(self, *args: Any, target: Any = (), **kwargs: Any) -> torch.Tensor:
        """Computes the gradients of the mean loss of a batch, which every process passes whole.

        Args:
            *args, **kwargs: of the model.
            target: what the loss function takes after the model's output; a tuple for several.

        Returns:
            The mean of the microbatches' losses, the same on every process.
        """
        pipeline = _pipeline_of(self)
        targets = target if isinstance(target, tuple) else (target,)
        return pipeline.train_step(self._thunder, args, kwargs, targets)

    def cut_stages(self, *args: Any, target: Any = (), **kwargs: Any) -> None:
        """Cuts the program of such a batch into stages, as the first call would, and computes nothing.

        Afterwards this process has the parameters of its stages, and checkpoints can be loaded.

        Args:
            *args, target, **kwargs: as for `train_step`; values do not matter.
        """
        targets = target if isinstance(target, tuple) else (target,)
        _pipeline_of(self).cut(self._thunder, args, kwargs, targets)

    def stages(self) -> list[tuple[int, str, str, float]]:
        """(rank, first module, last module, share of the estimated cost) of each stage, after the first call."""
        return list(_pipeline_of(self).stages)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        """Scales all gradients so that their norm, over all stages, is at most `max_norm`; returns the norm."""
        pipeline = _pipeline_of(self)
        return clip_gradients(
            pipeline.model.parameters(), max_norm, norm_type, pipeline=pipeline.mesh, counts=pipeline.counts
        )


def _pipeline_of(compiled: PipelineMethods) -> Pipeline:
    distribution = compiled._thunder.options.distribution
    assert isinstance(distribution, Pipeline)
    return distribution
