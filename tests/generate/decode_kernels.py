"""Prints, as JSON, how often each kernel is launched in one decoding step, by layer and in the rest of the model.

The step is compiled as it would be for a GPU, on CPU tensors: with Triton's interpreter the fusing executor and the
kernel library take those.  Nothing of it is run.
"""

from __future__ import annotations

import collections
import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
import transformers

import thunder
from thunder.executors import resolve_executors
from thunder.frontend import make_options
from thunder.generate.request import Sampling, attention_patterns
from thunder.generate.step import Chooser, Prompt, State, decode_step, prompt_step
from thunder.kernels import kernel_mode
from thunder.lower.operators import is_view
from thunder.trace import Region
from thunder.trace.op import delete


def launches(trace) -> collections.Counter:
    """The kernels of a trace; an operation that PyTorch runs counts as one, a view as none."""
    found: collections.Counter = collections.Counter()
    for op in trace.ops:
        if isinstance(op.target, Region):
            if op.target.executor == "eager":
                found += launches(op.target.trace)
            else:
                found["fused"] += 1
        elif op.target is not delete and not is_view(op):
            found[op.name.removesuffix(".default")] += 1
    return found


def step_launches(layers: int) -> collections.Counter:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        hidden_size=128, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, intermediate_size=256,
        vocab_size=512, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config).eval().to(torch.bfloat16)
    patterns, device = attention_patterns(config), torch.device("cpu")
    state, prompt = State(1, layers, 128, device, padded=False), Prompt(1, 16, device)
    chooser = Chooser(Sampling((), False, (3,), 0), device)
    options = make_options(executors=resolve_executors(["triton", "eager"]))
    with torch.no_grad(), kernel_mode("always"):
        prompt_step(model, state, prompt, patterns, chooser, keeps=True)
        step = thunder.frontend.CompiledFunction(lambda: decode_step(model, state, patterns, chooser), options)
        entry = step.compile((), {})
    assert entry.computation.is_lowered, entry.computation.notes
    return launches(entry.computation.forward_traces[-1])


if __name__ == "__main__":
    three, two = step_launches(3), step_launches(2)
    layer = three - two
    print(json.dumps({"layer": layer, "rest": two - layer - layer}))
