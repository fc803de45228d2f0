"""Generation with the kernel library's operations, which compute with PyTorch on the CPU."""

from __future__ import annotations

import pytest
import torch

import thunder
from tests.generate.test_generate import generate, padded_prompt, prompt
from tests.generate.tiny_models import make_model
from thunder.generate import GenerationMethods
from thunder.generate.methods import _decoders
from thunder.kernels import kernel_mode


def steps(compiled):
    """The operations of the decoding steps that were compiled; those of a layer that others share come once."""
    for loop in _decoders[compiled._thunder]._loops.values():
        final = loop._step.compiled.last.computation.forward_traces[-1]
        regions = {id(region): region for region in final.regions()}
        for trace in (final, *(region.trace for region in regions.values())):
            yield from trace.ops


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma2"])
def test_tokens(name):
    model = make_model(name)
    compiled = thunder.jit(model, executors=["aten"], mixins=(GenerationMethods,))
    ids, mask = padded_prompt()
    with kernel_mode("always"):
        for _ in range(2):
            assert generate(compiled, prompt()).tolist() == generate(model, prompt()).tolist()
            wanted = generate(model, ids, attention_mask=mask).tolist()
            assert generate(compiled, ids, attention_mask=mask).tolist() == wanted


def test_keys_are_rotated_into_the_cache():
    model = make_model("qwen2")
    compiled = thunder.jit(model, executors=["aten"], mixins=(GenerationMethods,))
    with kernel_mode("always"):
        generate(compiled, prompt())
    operators = [op.args[0] for op in steps(compiled) if op.name == "call_in_place"]
    assert operators == [torch.ops.thunder.rope_into_cache.default]
