"""How long a kernel takes, from its shape.

Input: a kernel's shape, a device.  Output: seconds.  A kernel is as slow as the slowest of what it needs: operations,
bytes from memory, and the least time between two kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from thunder.planning.devices import Device

Kind = Literal["products", "attention", "traffic"]
Share = Literal["fused", "eager", "strided", "few rows"]

# Rows and columns of the result that one multiprocessor computes at a time, as cuBLAS has kernels for them.
_TILES = (
    (256, 128), (128, 256), (320, 128), (128, 320), (192, 192), (192, 128), (128, 192), (192, 96), (128, 128),
    (128, 64), (64, 128), (64, 64), (64, 32), (64, 16), (128, 16),
)  # fmt: skip
_SPLITS = (1, 2, 4, 8)
_SHORTEST_SPLIT = 512
_TILE_DEPTH = 64
_QUERY_TILE = 128


@dataclass(frozen=True)
class Matmul:
    """`count` products [m, k] @ [k, n]; `traffic`: bytes read and written, where they are others than the matrices'."""

    m: int
    n: int
    k: int
    count: int = 1
    element_size: int = 2
    traffic: int = 0
    kind: Kind = "products"

    @property
    def operations(self) -> int:
        return 2 * self.m * self.n * self.k * self.count

    @property
    def bytes(self) -> int:
        elements = self.m * self.n + self.m * self.k + self.k * self.n
        return self.traffic or self.count * self.element_size * elements

    def seconds(self, device: Device) -> float:
        """The best tiling's time, or the memory's."""
        return max(
            _product_seconds(self, device), self.bytes / device.memory_rate, device.kernel_seconds
        )


@dataclass(frozen=True)
class Attention:
    """Softmax attention as one kernel (backward: as many as it takes).

    `queries` rows for each of `batch` heads meet `keys` keys, or half of them when causal.
    """

    batch: int
    queries: int
    keys: int
    head_size: int
    is_causal: bool
    has_bias: bool
    is_backward: bool
    bytes: int
    kind: Kind = "attention"

    @property
    def operations(self) -> int:
        """Of the products that the gradient needs: two forward, four backward (the kernel computes a fifth again)."""
        met = self.keys / 2 if self.is_causal else self.keys
        return round((8 if self.is_backward else 4) * self.batch * self.queries * met * self.head_size)

    def seconds(self, device: Device) -> float:
        """Tiles of queries in waves; a tile costs its keys and a fixed number more."""
        rates = device.attention_backward if self.is_backward else device.attention_forward
        rate = rates[min(rates, key=lambda size: abs(size - self.head_size))]
        tiles = self.batch * math.ceil(self.queries / _QUERY_TILE)
        waves = math.ceil(tiles / device.multiprocessors)
        keys = math.ceil(self.keys / _QUERY_TILE) * _QUERY_TILE
        met = (keys + _QUERY_TILE) / 2 if self.is_causal else keys
        products = 10 if self.is_backward else 4
        of_tile = products * _QUERY_TILE * (met + rate.fixed_keys) * self.head_size
        share = device.attention_bias_share if self.has_bias else 1.0
        busy = waves * of_tile / (rate.operations_per_second / device.multiprocessors * share)
        return max(busy, self.bytes / device.memory_rate, device.kernel_seconds)


@dataclass(frozen=True)
class Traffic:
    """A kernel that computes little: bytes read and written, at a share of the bandwidth."""

    bytes: int
    share: Share = "fused"
    operations: int = 0
    kind: Kind = "traffic"

    def seconds(self, device: Device) -> float:
        reached = device.memory_rate * device.memory_shares[self.share]
        return max(self.bytes / reached, device.kernel_seconds)


KernelShape = Matmul | Attention | Traffic


def _product_seconds(product: Matmul, device: Device) -> float:
    """The time of the best tiling: whole waves of tiles, each with an inner loop and a fixed cost.

    The inner loop is bound by the tensor cores, or by the cache that feeds them, which small tiles ask more of.
    """
    if product.element_size > 2:
        return product.operations / device.float32_rate
    units = device.multiprocessors
    best = math.inf
    for rows, columns in _TILES:
        for split in _SPLITS:
            depth = math.ceil(product.k / split / _TILE_DEPTH) * _TILE_DEPTH
            if split > 1 and depth < _SHORTEST_SPLIT:
                continue
            tiles = math.ceil(product.m / rows) * math.ceil(product.n / columns) * product.count * split
            inner = max(
                2 * rows * columns * depth / (device.matmul_rate / units),
                (rows + columns) * depth * product.element_size / (device.cache_rate / units),
            )
            seconds = math.ceil(tiles / units) * (inner + device.tile_seconds)
            if split > 1:  # float32 parts are written and read
                seconds += 8 * split * product.m * product.n * product.count / device.memory_rate
            best = min(best, seconds)
    return best
