"""What formats cost in quality is bounded: embeddings of a trained encoder, the loss of a trained language model."""

from __future__ import annotations

import functools

import pytest

from tests.precision.quality import qualities
from thunder.precision.formats import get_format

# Least cosine of MiniLM's embeddings, and most that the language model's loss rises.
BOUNDS = {
    "int8": (0.9995, 0.003),
    "fp8": (0.998, 0.01),
    "fp6": (0.99, 0.03),
    "nvfp4": (0.97, 0.08),
    "nf4": (0.97, 0.08),
}


@functools.cache
def measured():
    return qualities(tuple(BOUNDS))


@pytest.mark.parametrize("format", BOUNDS)
def test_quality(format):
    loss, found = measured()
    least, most = BOUNDS[format]
    assert loss < 2.6  # it has learnt: 4.85 nats are chance
    assert found[format].cosine > least
    assert found[format].loss - loss < most
    assert found[format].memory == pytest.approx(get_format(format).bits_per_weight((384, 384)) / 32, rel=0.02)
