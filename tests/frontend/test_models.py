"""Models of transformers at tiny size: values, gradients, generation, and every printed trace runs alone."""

import copy

import pytest
import torch

import thunder
from thunder.trace import run_source, trace_constants

transformers = pytest.importorskip("transformers")

TEXT = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 99}


def qwen2():
    config = transformers.Qwen2Config(num_key_value_heads=2, **TEXT)
    return transformers.AutoModelForCausalLM.from_config(config), {"input_ids": torch.randint(0, 99, (2, 8))}


def bert():
    inputs = {"input_ids": torch.randint(0, 99, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    return transformers.BertModel(transformers.BertConfig(**TEXT)), inputs


def vit():
    shape = {name: value for name, value in TEXT.items() if name != "vocab_size"}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **shape)
    return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


@pytest.mark.parametrize("make", [qwen2, bert, vit])
def test_forward_and_every_printed_trace(make):
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    compiled = thunder.jit(model, executors=["eager"])
    with torch.no_grad():
        expected = model(**inputs)
        actual = compiled(**inputs)
        assert type(actual) is type(expected)
        torch.testing.assert_close(actual.to_tuple()[0], expected.to_tuple()[0])
        tensors = {"".join(c if c.isalnum() else "_" for c in name): tensor
                   for name, tensor in [*model.named_parameters(), *model.named_buffers()]}  # fmt: skip
        traces = thunder.last_traces(compiled)
        arguments = [tensors.get(var.name, inputs.get(var.name)) for var in traces[0].inputs]
        reference = traces[0].callable()(*arguments)
        for trace in traces:
            function = run_source(str(trace), trace.name, trace_constants(trace))
            torch.testing.assert_close(function(*arguments), reference)
    torch.testing.assert_close(reference[0], actual.to_tuple()[0])


@pytest.mark.parametrize("make", [qwen2, bert])
def test_gradients(make):
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    compiled = thunder.compile(copy.deepcopy(model))
    for module in (model, compiled):
        module(**inputs).to_tuple()[0].square().mean().backward()
    for (name, parameter), other in zip(model.named_parameters(), compiled.parameters()):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_gives_the_tokens_of_eager(cache):
    torch.manual_seed(0)
    model, inputs = qwen2()
    model.eval()
    model.generation_config.pad_token_id = 0
    options = {"max_new_tokens": 8, "do_sample": False}
    if cache is not None:
        options["cache_implementation"] = cache
    expected = model.generate(**inputs, **options)
    compiled = thunder.compile(model, recipe="eager")
    assert torch.equal(compiled.generate(**inputs, **options), expected)
    assert thunder.compile_stats(compiled).plain_calls == 0
    assert thunder.cache_misses(compiled) <= 3
