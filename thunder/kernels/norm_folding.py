"""Which operations on one row take the RMSNorm before them as arguments, and where; needs no Triton.

Input: `register_norm_folding(op, places)`, by the files of such operations.  Output: the table that `use_gemv` reads.
The operations also take `constant_weights=`: see `thunder.kernels.gemv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NormPlaces:
    """Positions among an operation's arguments.

    Attributes:
        x, norm_weight, eps: of these.
        weights: of what is read besides x, the residual and the norm's weight.
        defaults: of all arguments that may be left out; shorter calls are filled up from it.
    """

    x: int
    norm_weight: int
    eps: int
    weights: tuple[int, ...]
    defaults: tuple[Any, ...]


_places: dict[Any, NormPlaces] = {}


def register_norm_folding(op: Any, places: NormPlaces) -> None:
    """Has `use_gemv` fold norms into calls of `op`."""
    _places[op] = places


def norm_places(op: Any) -> NormPlaces | None:
    """Where the operation takes a norm, or None when it takes none."""
    return _places.get(op)
