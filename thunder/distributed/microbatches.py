"""Batches as parts, and the results of parts as those of the batch.

Input and output: structures of tensors and other values; tensors are divided along their first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from thunder.errors import PipelineError


def microbatches(batch: Any, count: int) -> list[Any]:
    """A batch, a structure of tensors and others, as parts: tensors are divided along their first dimension.

    Raises:
        PipelineError: the batch cannot be divided.
    """
    leaves, structure = pytree.tree_flatten(batch)
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if not sizes or sizes[0] % count:
        raise PipelineError(
            f"a batch of {sizes[0] if sizes else 'no tensors'} cannot be divided into {count} microbatches",
            remedy="pass batches that the number divides, or PP(microbatches=...)",
        )
    parts = []
    for number in range(count):
        mine = [
            leaf.chunk(count)[number] if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == sizes[0]
            else leaf
            for leaf in leaves
        ]  # fmt: skip
        parts.append(pytree.tree_unflatten(mine, structure))
    return parts


def put_together(results: Sequence[Any]) -> Any:
    """The results of microbatches as that of the batch."""
    leaves = [pytree.tree_flatten(result)[0] for result in results]
    _, structure = pytree.tree_flatten(results[0])
    joined: list[Any] = []
    for parts in zip(*leaves):
        tensors = all(isinstance(part, torch.Tensor) for part in parts)
        if not tensors:
            if not isinstance(parts[0], (type(None), bool, int, float, str)):
                raise PipelineError(
                    f"the model returns a {type(parts[0]).__qualname__}, which cannot be put together from those of "
                    "the microbatches",
                    remedy="let the model return tensors; for transformers' models pass use_cache=False",
                )
            joined.append(parts[0])
        else:
            joined.append(torch.cat(parts) if parts[0].dim() else torch.stack(parts).mean())
    return pytree.tree_unflatten(joined, structure)
