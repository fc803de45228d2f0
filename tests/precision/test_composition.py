"""Pairs of plugins: what runs together, what is refused; adapters and generation on quantised models."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

import thunder
from tests.generate.tiny_models import make_model
from tests.precision.models import make, tokens
from thunder.errors import OptionError
from thunder.plugins import FP8, MXFP8, QuantizeInt4, plugin_names
from thunder.plugins.plugin import _registry
from thunder.precision import QuantizedLinear, quantized_layers

PRECISION = ("quantize-int8", "quantize-int4", "fp6", "nvfp4", "mxfp4", "fp8", "mxfp8")
OTHERS = ("reduce-overhead", "debug")


def test_every_precision_plugin_is_known():
    assert set(PRECISION) <= set(plugin_names())


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", PRECISION)
def test_inference_beside_other_plugins(name, other, capsys):
    alone, together = make(), make()
    expected = thunder.compile(alone, recipe="eager", plugins=name)
    found = thunder.compile(together, recipe="eager", plugins=[other, name])
    with torch.no_grad():
        assert torch.equal(found(tokens()), expected(tokens()))
    assert len(quantized_layers(together)) == 6


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("plugin", [FP8(), FP8(scaling="delayed"), MXFP8()], ids=repr)
def test_training_beside_other_plugins(plugin, other, capsys):
    grads = []
    for plugins in (plugin, [plugin, other]):
        model = make().train()
        thunder.compile(model, recipe="eager", plugins=plugins)(tokens()).square().mean().backward()
        grads.append(model.blocks[0].up.weight.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("first", PRECISION)
@pytest.mark.parametrize("second", PRECISION)
def test_two_formats_for_every_layer_are_refused(first, second):
    model = make()
    message = "is given twice" if first == second else "would both quantise every layer"
    with pytest.raises(OptionError, match=message):
        thunder.compile(model, plugins=[first, second])
    assert not quantized_layers(model)


@pytest.mark.parametrize("first", PRECISION)
@pytest.mark.parametrize("second", PRECISION)
def test_two_formats_for_different_layers(first, second):
    model = make()
    plugins = [_registry[first](include="up"), _registry[second](include="down")]
    thunder.compile(model, plugins=plugins)
    assert len(quantized_layers(model)) == 4
    assert model(tokens()).isfinite().all()


@pytest.mark.parametrize("plugin", [QuantizeInt4(), "nvfp4"], ids=repr)
def test_autocast_over_quantised_layers(plugin):
    model = make()
    thunder.compile(model, plugins=plugin)
    compiled = thunder.jit(model, transforms=[thunder.autocast("bf16")], executors=["eager"])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = model(tokens())
    with torch.no_grad():
        found = compiled(tokens())
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", PRECISION)
def test_generation_takes_the_same_way_as_unquantised(name):
    model = make_model("qwen2")
    plugin = _registry[name](exclude="down_proj")  # its 48 inputs are no multiple of 32
    compiled = thunder.compile(model, recipe="eager", plugins=plugin)
    prompt, options = torch.tensor([[5, 6, 7]]), {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(prompt, **options)
    for _ in range(2):
        assert torch.equal(compiled.generate(prompt, **options), expected)
    assert not any("own loop" in note for note in thunder.compile_stats(compiled).notes)


def test_low_rank_adapters_on_a_quantised_base():
    """QLoRA: nf4 base, adapters in bf16; only adapters are trained, and the loss falls."""
    peft = pytest.importorskip("peft")
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96, vocab_size=96
    )
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(config).bfloat16()
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    before = copy.deepcopy(base)
    model = peft.get_peft_model(base, lora)
    compiled = thunder.compile(model, plugins=QuantizeInt4(kind="nf4"))
    layers = quantized_layers(model)
    assert len(layers) == 7 and not any("lora_" in name for name in layers)
    assert all(layer.format.element == "nf4" for layer in layers.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 6
    optimizer, data, losses = torch.optim.AdamW(trained, lr=2e-2), tokens(2, 12), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = compiled(input_ids=data, labels=data).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert all(p.grad is None for name, p in model.named_parameters() if "lora_" not in name)
    # The other order: adapters on a model that is quantised already.
    quantised = before
    thunder.compile(quantised, plugins=QuantizeInt4(kind="nf4"))
    other = peft.get_peft_model(quantised, lora)
    assert isinstance(other.base_model.model.model.layers[0].mlp.up_proj.base_layer, QuantizedLinear)
    assert other(input_ids=data, labels=data).loss.isfinite()
