"""Small models for the tests of quantisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SmallLanguageModel(nn.Module):
    """An embedding, blocks of a gated MLP, and a head that shares the embedding's weight where asked."""

    def __init__(self, vocabulary: int = 96, width: int = 64, depth: int = 2, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_words = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.to_words.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.to_words(self.norm(hidden))


class Block(nn.Module):
    """h + down(silu(gate(norm(h))) * up(norm(h)))"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(hidden)
        return hidden + self.down(nn.functional.silu(self.gate(normalised)) * self.up(normalised))


def make(kind: type[nn.Module] = SmallLanguageModel, seed: int = 0, **options: Any) -> Any:
    """A model in evaluation mode; equal weights at every call."""
    torch.manual_seed(seed)
    return kind(**options).eval()


def tokens(batch: int = 2, length: int = 7, vocabulary: int = 96) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(3))
