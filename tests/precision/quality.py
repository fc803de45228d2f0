"""What formats cost in quality: sentence embeddings of MiniLM, and a small language model trained here.

    python -m tests.precision.quality

prints the table of docs/precision.md.  The language model predicts characters of the texts of `help()`, which ship
with Python.
"""

from __future__ import annotations

import copy
import pydoc_data.topics
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.precision.models import SmallLanguageModel, make
from thunder.cli.workloads import minilm
from thunder.precision import memory_of, quantize_model, quantized_layers
from thunder.precision.formats import get_format

FORMATS = ("int8", "fp8", "mxfp8", "fp6", "mxfp6", "nvfp4", "nf4", "int4-asymmetric", "int4", "mxfp4")
VOCABULARY = 128
CONTEXT = 4


@dataclass(frozen=True)
class Quality:
    """Bits for each weight; bytes of MiniLM's quantised layers over those before; the mean cosine of its embeddings
    to those in float32; the language model's loss."""

    bits: float
    memory: float
    cosine: float
    loss: float


class NextCharacter(nn.Module):
    """Predicts a character from the `CONTEXT` before it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = SmallLanguageModel(VOCABULARY, 64, 2)
        self.join = nn.Linear(64 * CONTEXT, 64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.join(self.model.embedding(tokens).flatten(-2))
        for block in self.model.blocks:
            hidden = block(hidden)
        return self.model.to_words(self.model.norm(hidden))


def text() -> torch.Tensor:
    """The texts of `help()` as character numbers."""
    joined = re.sub(r"\s+", " ", " ".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)))
    codes = [ord(character) for character in joined[:200_000]]
    return torch.tensor([code if code < VOCABULARY else 0 for code in codes])


def windows(data: torch.Tensor, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [count, CONTEXT] and the characters that follow."""
    positions = torch.arange(start, start + count)
    return data[positions[:, None] + torch.arange(CONTEXT)], data[positions + CONTEXT]


def trained_model(steps: int = 150) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
    """(the trained model, held-out windows)."""
    data = text()
    model = make(NextCharacter).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        inputs, wanted = windows(data, int(torch.randint(0, 150_000, (1,), generator=generator)), 512)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), wanted).backward()
        optimizer.step()
    return model.eval(), windows(data, 160_000, 8192)


@torch.no_grad()
def qualities(formats: tuple[str, ...] = FORMATS) -> tuple[float, dict[str, Quality]]:
    """(loss of the language model as trained, the figures of each format)."""
    encoder = minilm()
    exact = encoder.model(**encoder.kwargs)
    language, (inputs, wanted) = trained()
    found = {}
    for format in formats:
        model = copy.deepcopy(encoder.model)
        before = sum(layer.weight.nbytes for layer in model.modules() if isinstance(layer, nn.Linear))
        quantize_model(model, format)
        stored = sum(layer.quantized().nbytes for layer in quantized_layers(model).values())
        cosine = F.cosine_similarity(model(**encoder.kwargs), exact, dim=-1).mean()
        small = quantize_model(copy.deepcopy(language), format)
        loss = F.cross_entropy(small(inputs), wanted)
        bits = get_format(format).bits_per_weight((384, 384))
        found[format] = Quality(bits, stored / before, float(cosine), float(loss))
        assert memory_of(small) < memory_of(language)
    return float(F.cross_entropy(language(inputs), wanted)), found


def trained() -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
    with torch.enable_grad():
        return trained_model()


def main() -> None:
    loss, found = qualities()
    print("| format | bits a weight | memory, of float32 | MiniLM, cosine | language model, loss |")
    print("|---|---|---|---|---|")
    print(f"| float32 | 32 | 1 | 1 | {loss:.4f} |")
    for format, row in found.items():
        print(f"| {format} | {row.bits:.2f} | {row.memory:.3f} | {row.cosine:.5f} | {row.loss:.4f} |")


if __name__ == "__main__":
    main()
