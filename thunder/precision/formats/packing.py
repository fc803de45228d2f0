"""Packing: codes of 4 and 6 bits side by side in bytes, row by row.

    pack     uint8 [..., K] codes -> uint8 [..., K * bits / 8]
    unpack   the inverse

| bits | K | bytes of a row |
|---|---|---|
| 8 | any | the codes |
| 4 | even | byte j: code 2j in the low half, code 2j + 1 in the high half |
| 6 | a multiple of 4 | K / 2 bytes of the low 4 bits, packed as above; then K / 4 bytes of the high 2 bits: byte j has those of the codes 4j to 4j + 3, the first in the lowest bits |

Six bits are kept in two planes, so that a kernel reads whole words of each.
"""  # noqa: E501  (a table)

from __future__ import annotations

import torch

from thunder.errors import QuantizationError

_MULTIPLES = {8: 1, 4: 2, 6: 4}


def packed_length(length: int, bits: int) -> int:
    """Bytes for a row of so many codes.

    Raises:
        QuantizationError: when the length is not divisible as the table above says.
    """
    multiple = _MULTIPLES[bits]
    if length % multiple:
        raise QuantizationError(
            f"{length} codes of {bits} bits do not fill whole bytes", remedy=f"rows must be multiples of {multiple}"
        )
    return length * bits // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs rows of codes."""
    packed_length(codes.shape[-1], bits)
    if bits == 8:
        return codes
    if bits == 4:
        return codes[..., 0::2] | (codes[..., 1::2] << 4)
    high = codes >> 4
    high = high[..., 0::4] | (high[..., 1::4] << 2) | (high[..., 2::4] << 4) | (high[..., 3::4] << 6)
    return torch.cat([pack(codes & 15, 4), high], -1)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpacks rows of codes."""
    if bits == 8:
        return packed
    if bits == 4:
        return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    length = packed.shape[-1] // 3 * 4
    low, high = packed.split([length // 2, length // 4], -1)
    high = torch.stack([high & 3, (high >> 2) & 3, (high >> 4) & 3, high >> 6], -1).flatten(-2)
    return unpack(low, 4) | (high << 4)
