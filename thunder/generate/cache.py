"""The key-value cache that decoding writes to: buffers of a fixed size, updated in place.

Every layer holds keys and values [batch, heads, capacity, size] at full length, sliding-window layers too: masks
decide what is seen.  Where the next tokens go is the same for all layers and known on the device only.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticCache,
    StaticLayer,
)


class Slots:
    """Where a forward pass writes: set for its duration by the step that makes it.

    Attributes:
        current: int64 [new tokens], or None outside of a step.
    """

    def __init__(self) -> None:
        self.current: torch.Tensor | None = None


class DecodeLayer(CacheLayerMixin):
    """One layer's keys and values; they are made by the first update."""

    is_compileable = True
    is_sliding = False

    def __init__(self, capacity: int, slots: Slots) -> None:
        super().__init__()
        self.capacity = capacity
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        batch, heads, _, size = states.shape
        with torch.inference_mode(False):
            return torch.zeros(batch, heads, self.capacity, size, dtype=states.dtype, device=states.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens' states to the current slots; returns all states."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None and self.slots.current is not None
        self.keys.index_copy_(2, self.slots.current, key_states)
        self.values.index_copy_(2, self.slots.current, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.capacity, 0

    def get_seq_length(self) -> Any:
        return self.slots.current[0] if self.slots.current is not None else 0

    def get_max_length(self) -> int:
        return self.capacity


class DecodeCache(Cache):
    """The cache of a whole model."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.slots = Slots()
        super().__init__(layers=[DecodeLayer(capacity, self.slots) for _ in range(layers)])


def can_exchange(cache: Any) -> bool:
    """Whether the contents of a cache of this kind can be taken over and given back."""
    kinds = {type(layer) for layer in cache.layers}
    if type(cache) is DynamicCache:
        return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
    return type(cache) is StaticCache and kinds <= {StaticLayer}


def take_over(cache: Any, ours: Any, filled: int) -> None:
    """Copies the `filled` first tokens' states of another cache into ours."""
    for theirs, layer in zip(cache.layers, ours.layers):
        if not theirs.is_initialized:
            continue
        keys, values = theirs.keys, theirs.values
        if isinstance(theirs, StaticLayer):
            keys, values = keys[:, :, :filled], values[:, :, :filled]
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
        # A sliding layer holds the last tokens only; what it has dropped is not looked at again.
        first = filled - keys.shape[2]
        layer.keys[:, :, first:filled] = keys
        layer.values[:, :, first:filled] = values


def give_back(ours: Any, cache: Any, filled: int) -> None:
    """Makes another cache hold copies of the `filled` first tokens' states of ours."""
    if type(cache) is DynamicCache:
        while len(cache.layers) < len(ours.layers):
            cache.layers.append(DynamicLayer())
    for layer, theirs in zip(ours.layers, cache.layers):
        keys, values = layer.keys[:, :, :filled], layer.values[:, :, :filled]
        if not theirs.is_initialized:
            theirs.lazy_initialization(keys, values)
        if isinstance(theirs, StaticLayer):
            for buffer, states in ((theirs.keys, keys), (theirs.values, values)):
                assert buffer is not None
                buffer[:, :, :filled] = states
            theirs.cumulative_length.fill_(filled)
            continue
        if isinstance(theirs, DynamicSlidingWindowLayer):
            first = max(filled - theirs.sliding_window + 1, 0)
            keys, values = keys[:, :, first:], values[:, :, first:]
            theirs.cumulative_length = filled
        theirs.keys, theirs.values = keys.clone(), values.clone()
