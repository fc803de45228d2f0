"""Quantised layers and models: values, gradients, which layers, what stays, and bad input."""

from __future__ import annotations

import copy
import pickle
import re
import weakref

import pytest
import torch
import transformers
from torch import nn

import thunder
from tests.generate.tiny_models import make_model
from tests.precision.models import SmallLanguageModel, make, tokens
from thunder.errors import OptionError, QuantizationError
from thunder.kernels import kernel_mode
from thunder.plugins import FP6, FP8, MXFP4, MXFP8, NVFP4, QuantizeInt4, QuantizeInt8
from thunder.precision import (
    QuantizedLinear,
    memory_of,
    quantize_layer,
    quantize_model,
    quantized_layers,
)
from thunder.precision.formats import dequantize, format_names, get_format
from thunder.precision.formats.quantized import quantize

PLUGINS = [
    QuantizeInt8(),
    QuantizeInt4(),
    QuantizeInt4(group_size=32, kind="asymmetric"),
    QuantizeInt4(kind="nf4"),
    FP6(),
    FP6(element="e2m3", scaling="mx"),
    NVFP4(),
    MXFP4(),
    NVFP4(inputs="dynamic"),
    MXFP4(inputs="dynamic"),
    FP8(),
    MXFP8(),
    FP8(inputs="dynamic"),
    MXFP8(inputs="dynamic"),
]


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def dequantized_copy(model):
    """The model with float layers that have the quantised layers' numbers."""
    plain = copy.deepcopy(model)
    for layer in quantized_layers(plain).values():
        weight = layer.weight
        for name in ("codes", "scales", "zeros", "tensor_scale"):
            del layer._buffers[name]
        layer.__class__ = nn.Linear
        layer.weight = nn.Parameter(weight)
    return plain


@pytest.mark.parametrize("plugin", PLUGINS, ids=repr)
def test_plugins_store_few_bits_and_compute_with_them(plugin):
    model, original = make(), make()
    compiled = thunder.compile(model, plugins=plugin)
    layers = quantized_layers(model)
    assert len(layers) == 6 and not isinstance(model.to_words, QuantizedLinear)
    for name, layer in layers.items():
        weight = original.get_submodule(name).weight
        expected = sum(weight.numel() * layer.format.bits_per_weight(tuple(weight.shape)) / 8 for _ in [0])
        assert layer.quantized().nbytes == expected
        assert torch.equal(dequantize(quantize(weight, layer.format)), layer.weight)
    with torch.no_grad():
        found, exact, plain = compiled(tokens()), original(tokens()), model(tokens())
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
    if getattr(plugin, "inputs", "weight-only") == "weight-only":
        torch.testing.assert_close(found, dequantized_copy(model)(tokens()), rtol=1e-4, atol=1e-4)
    cosine = nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    assert cosine > (0.999 if "8" in plugin.name else 0.97)
    assert torch.equal(model.embedding.weight, original.embedding.weight)


@pytest.mark.parametrize("name", format_names())
def test_gradients_are_those_of_the_dequantised_weight(name):
    """The straight-through reference in float64: x and bias as with a float weight."""
    torch.manual_seed(0)
    layer = nn.Linear(128, 128).double()
    quantize_layer(layer, get_format(name))
    x = torch.randn(3, 5, 128, dtype=torch.float64, requires_grad=True)
    tangent = torch.randn(3, 5, 128, dtype=torch.float64)
    layer(x).backward(tangent)
    weight = dequantize(layer.quantized(), torch.float64)
    torch.testing.assert_close(x.grad, tangent @ weight)
    torch.testing.assert_close(layer.bias.grad, tangent.sum((0, 1)))
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, layer.bias))


@pytest.mark.parametrize("activation", [None, "mxfp8"])
def test_operators_are_well_formed(activation):
    layer = quantize_layer(nn.Linear(64, 32), get_format("int4").with_group(32))
    parts = (layer.codes, layer.scales, None, None, layer.bias, layer.format_text)
    x = torch.randn(2, 3, 64, requires_grad=True)
    if activation is None:
        torch.library.opcheck(torch.ops.thunder.linear_weight_only.default, (x, *parts))
    else:
        torch.library.opcheck(torch.ops.thunder.linear_dynamic.default, (x, *parts, str(get_format(activation))))
    arguments = (layer.codes, layer.scales, None, None, layer.format_text, torch.bfloat16)
    torch.library.opcheck(torch.ops.thunder.dequantize_weight.default, arguments)


def test_training_through_quantised_layers_with_the_compiler():
    model = make()
    plain = dequantized_copy(quantize_model(model, "nf4"))
    compiled = thunder.jit(model, executors=["aten"])
    for module, reference in ((compiled, plain),):
        losses = [m(tokens()).square().mean() for m in (module, reference)]
        for loss in losses:
            loss.backward()
    for name in ("embedding.weight", "blocks.0.norm.weight", "blocks.1.down.bias", "to_words.weight"):
        torch.testing.assert_close(model.get_parameter(name).grad, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_casting_moving_copying_and_pickling_leave_the_stored_numbers_alone():
    model = quantize_model(make(), "int4")
    before = {name: layer.quantized() for name, layer in quantized_layers(model).items()}
    for changed in (copy.deepcopy(model).bfloat16(), copy.deepcopy(model).half(), pickle.loads(pickle.dumps(model))):
        for name, layer in quantized_layers(changed).items():
            assert torch.equal(layer.codes, before[name].codes) and layer.scales.dtype is torch.bfloat16
            assert layer.weight.dtype is changed.norm.weight.dtype
        assert changed(tokens()).dtype is changed.norm.weight.dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert model.blocks[0].up(torch.randn(2, 64)).dtype is torch.bfloat16
        assert thunder.jit(model.blocks[0].up)(torch.randn(2, 64)).dtype is torch.bfloat16


def test_each_original_weight_is_freed_before_the_next_layer_is_quantised():
    model = make(depth=4)
    weights = {name: weakref.ref(m.weight) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    alive = []
    quantize_model(
        model, "int8", progress=lambda name: alive.append(sum(ref() is not None for ref in weights.values()))
    )
    assert alive == list(range(len(weights), 1, -1))


def test_layers_that_share_a_weight_share_the_quantised_one():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32))
    model[2].weight = model[0].weight
    quantize_model(model, "int8")
    assert model[2].codes is model[0].codes and model[1].codes is not model[0].codes


def test_the_model_itself_may_be_a_linear_layer():
    layer = nn.Linear(64, 16)
    x = torch.randn(2, 64)
    exact = layer(x)
    compiled = thunder.compile(layer, plugins="quantize-int8")
    assert isinstance(layer, QuantizedLinear)
    torch.testing.assert_close(compiled(x), exact, rtol=0.05, atol=0.02)


# Which layers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "include, exclude, expected",
    [
        (None, None, ["0.gate", "0.up", "0.down", "1.gate", "1.up", "1.down"]),
        ("blocks.1", None, ["1.gate", "1.up", "1.down"]),
        ("up", None, ["0.up", "1.up"]),
        ("*.0.*", "down", ["0.gate", "0.up"]),
        (["gate", "down"], "blocks.0.*", ["1.gate", "1.down"]),
        (re.compile(r"1\.(up|down)$"), None, ["1.up", "1.down"]),
        (lambda name, module: module.in_features == 128, None, ["0.down", "1.down"]),
        ("to_words", None, ["to_words"]),
    ],
)
def test_patterns(include, exclude, expected):
    model = make()
    thunder.compile(model, plugins=QuantizeInt8(include=include, exclude=exclude))
    assert [name.removeprefix("blocks.") for name in quantized_layers(model)] == expected


@pytest.mark.parametrize("tied", [True, False])
def test_heads_are_left_alone_whatever_their_name(tied):
    model = quantize_model(make(tied=tied), "int8")
    assert type(model.to_words) is nn.Linear
    assert (model.to_words.weight is model.embedding.weight) == tied


def test_a_head_that_shares_the_embedding_may_be_asked_for():
    model = quantize_model(make(tied=True), "int8", include="to_words")
    assert list(quantized_layers(model)) == ["to_words"] and model.embedding.weight.shape == (96, 64)


def test_conv1d_of_transformers():
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99, n_positions=32)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    exact, original = model(tokens()).logits, state_of(model)
    compiled = thunder.compile(model, plugins="quantize-int8")
    assert set(quantized_layers(model)) == {
        f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens()).logits, exact, rtol=0.05, atol=0.02)
    assert model.transformer.h[0].mlp.c_fc.weight.shape == (32, 128)
    before = state_of(model)
    model.load_state_dict(original)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_encoder_layers_of_pytorch_with_their_fast_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    exact = layer(x)
    quantize_model(layer, "int8")
    assert set(quantized_layers(layer)) == {"linear1", "linear2"}
    with torch.no_grad():
        torch.testing.assert_close(layer(x), exact, rtol=0.05, atol=0.05)
        torch.testing.assert_close(thunder.compile(layer)(x), layer(x), rtol=1e-4, atol=1e-4)


# Bad input ------------------------------------------------------------------------------------------------------------
def with_layer(**changes):
    model = make()
    for name, value in changes.items():
        setattr(model.blocks[1], name, value)
    return model


def not_finite(value):
    layer = nn.Linear(64, 128)
    layer.weight.data[3, 4] = value
    return layer


def of_integers():
    layer = nn.Linear(64, 128, bias=False)
    layer.weight = nn.Parameter(torch.ones(128, 64, dtype=torch.int8), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    "plugin, changes, message",
    [
        (QuantizeInt4(group_size=48), {}, r"'blocks.0.gate'.*64 inputs are not divisible by the block of 48 \(5 other"),
        ("mxfp4", {"up": nn.Linear(72, 128)}, "'blocks.1.up'.*72 inputs are not divisible by the block of 32; nothing"),
        ("quantize-int4", {"up": nn.Linear(65, 8)}, "'blocks.1.up'.*65 inputs are not divisible"),
        ("quantize-int8", {"up": not_finite(float("nan"))}, "'blocks.1.up'.*infinities or NaNs"),
        ("nvfp4", {"up": not_finite(float("-inf"))}, "'blocks.1.up'.*infinities or NaNs"),
        ("fp6", {"up": of_integers()}, "'blocks.1.up'.*torch.int8"),
        (QuantizeInt8(include="up_proj"), {}, "include='up_proj' fits no linear layer(.|\n)*linear layers: blocks.0"),
        (QuantizeInt8(include="blocks.0.updown"), {}, "did you mean"),
        (QuantizeInt8(include="dwn"), {}, "did you mean down"),
        (QuantizeInt8(exclude=["up", "attention"]), {}, "exclude='attention' fits no linear layer"),
        (QuantizeInt8(exclude="*"), {}, "no layer of SmallLanguageModel is left"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(plugin, changes, message):
    model = with_layer(**changes)
    before, kinds = state_of(model), [type(module) for module in model.modules()]
    with pytest.raises(QuantizationError, match=message):
        thunder.compile(model, plugins=[QuantizeInt8(include="blocks.0.down"), plugin] if changes else plugin)
    assert kinds == [type(module) for module in model.modules()]
    assert before.keys() == model.state_dict().keys()
    assert all(
        torch.equal(value, model.state_dict()[name]) or not value.isfinite().all() for name, value in before.items()
    )


def test_other_bad_input():
    with pytest.raises(QuantizationError, match="no linear layer"):
        thunder.compile(nn.Sequential(nn.ReLU()), plugins="quantize-int8")
    with pytest.raises(OptionError, match="has none"):
        thunder.compile(torch.relu, plugins="quantize-int8")
    model = quantize_model(make(), "int8")
    with pytest.raises(QuantizationError, match="quantised already"):
        thunder.compile(model, plugins="fp6")
    with pytest.raises(OptionError, match="known: .*nf4"):
        QuantizeInt4(kind="gptq")
    with pytest.raises(OptionError, match="group_size=1"):
        QuantizeInt4(group_size=1)
    with pytest.raises(OptionError, match="known: .*dynamic"):
        NVFP4(inputs="static")
    with pytest.raises(OptionError, match="known: e2m3, e3m2"):
        FP6(element="e1m4")
    with pytest.raises(QuantizationError, match="last dimension must be 64"):
        model.blocks[0].up(torch.randn(2, 63))
    with pytest.raises(QuantizationError, match="int64"):
        model.blocks[0].up(torch.ones(2, 64, dtype=torch.int64))
    with pytest.raises(QuantizationError, match="quantize_layer"):
        QuantizedLinear(2, 2)
    with pytest.raises(QuantizationError, match="no linear layer"):
        quantize_layer(nn.Bilinear(2, 2, 2), get_format("int8"))


@pytest.mark.parametrize("pattern", [3, [], ["up", None]])
def test_what_is_no_pattern(pattern):
    with pytest.raises(OptionError, match="names no modules"):
        thunder.compile(make(), plugins=QuantizeInt8(include=pattern))


def test_plugins_that_name_the_same_layer_are_refused_before_anything_is_changed():
    for plugins in (
        [QuantizeInt4(include="up"), QuantizeInt8(include="blocks.0")],
        [QuantizeInt8(), NVFP4(include="up")],
        [NVFP4(include=["gate", "up", "down"]), QuantizeInt8()],
    ):
        model = make()
        with pytest.raises(
            QuantizationError, match=r"would both store the layer 'blocks.0.(up|gate)'; nothing was changed"
        ):
            thunder.compile(model, plugins=plugins)
        assert not quantized_layers(model)
    thunder.compile(model, plugins=[NVFP4(include="up"), QuantizeInt8()])
    assert str(quantized_layers(model)["blocks.0.down"].format) == "int8/1x*/float32"


def test_plugins_for_different_layers_are_one_mix():
    model = make()
    thunder.compile(model, plugins=[QuantizeInt4(include="up"), QuantizeInt8(include="down")])
    formats = {name: layer.format.element for name, layer in quantized_layers(model).items()}
    assert formats == {
        "blocks.0.up": "int4", "blocks.0.down": "int8", "blocks.1.up": "int4", "blocks.1.down": "int8",
    }  # fmt: skip
    assert memory_of(model) < memory_of(make())


def test_a_compiled_model_can_be_quantised():
    compiled = thunder.compile(make())
    exact = compiled(tokens())
    again = thunder.compile(compiled, plugins="quantize-int8")
    torch.testing.assert_close(again(tokens()), exact, rtol=0.1, atol=0.1)
    assert type(again).__mro__[2] is SmallLanguageModel or isinstance(again, SmallLanguageModel)


def test_projections_of_one_row_are_merged():
    """In a decoding step query, key and value are one launch; the results are those of the single products."""
    model = make_model("llama")
    compiled = thunder.compile(model, recipe="eager", plugins="quantize-int4")
    with torch.no_grad(), kernel_mode("always"):
        for length in (1, 3):
            ids = torch.arange(5, 5 + length)[None]
            found = compiled(ids, use_cache=False).logits
            torch.testing.assert_close(found, model(ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)
            names = [op.name for trace in thunder.last_traces(compiled) for op in trace.ops]
            assert ("linear_weight_only_merged.default" in names) == (length == 1)
