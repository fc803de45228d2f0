"""How one parameter lies on the processes of a group: the rows of one of its dimensions in parts, in rank order.

Every process but the last ones has `chunk` rows; the last ones may have fewer, or none.  This is how DTensor's
`Shard(dimension)` divides, so that optimisers, `state_dict` and `torch.distributed.checkpoint` know the parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """A parameter of `shape`, divided among `processes`.

    Attributes:
        shape: of the whole parameter.
        dtype: in which the parts are stored and updated.
        seen_dtype: in which programs see the whole.
        processes: how many parts there are; with one, every process has the whole.
        rank: which part is here.
        device: where programs compute with it.
        home: where parts are kept; None where that is `device`.
        dimension: the one that is divided; "rows" are what it counts.
        summed: gradients are added up over the processes of tensor parallelism as well.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    seen_dtype: torch.dtype
    processes: int
    rank: int
    device: torch.device
    dimension: int = 0
    summed: bool = False
    home: torch.device | None = None

    @property
    def kept_on(self) -> torch.device:
        """Where parts, and the gradients of parts, are."""
        return self.home or self.device

    @property
    def is_used_as_kept(self) -> bool:
        """Whether programs compute with the part itself."""
        return self.processes == 1 and self.dtype is self.seen_dtype and self.kept_on == self.device

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The other dimensions."""
        return (*self.shape[: self.dimension], *self.shape[self.dimension + 1 :])

    @property
    def row(self) -> int:
        """Elements of one row."""
        return math.prod(self.row_shape)

    @property
    def chunk(self) -> int:
        """Rows that a full part has."""
        return -(-self.shape[self.dimension] // self.processes)

    @property
    def padded(self) -> int:
        """Elements of a full part."""
        return self.chunk * self.row

    @property
    def rows(self) -> range:
        """The rows that are here."""
        return rows_of(self.shape[self.dimension], self.processes, self.rank)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the part that is here."""
        if self.processes == 1:
            return self.shape
        return (*self.shape[: self.dimension], len(self.rows), *self.shape[self.dimension + 1 :])

    @property
    def is_even(self) -> bool:
        """Whether all parts have the same number of rows."""
        return self.processes == 1 or self.shape[self.dimension] % self.processes == 0


def rows_of(count: int, processes: int, rank: int) -> range:
    """The rows of `count` that process `rank` has."""
    chunk = -(-count // processes)
    return range(min(rank * chunk, count), min((rank + 1) * chunk, count))
