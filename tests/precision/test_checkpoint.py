"""Files of quantised models, and weights that come after the model."""

from __future__ import annotations

import importlib.util
import json

import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

import thunder
from tests.precision.models import SmallLanguageModel, make, tokens
from thunder.errors import CheckpointError, QuantizationError
from thunder.plugins import QuantizeInt4, QuantizeInt8
from thunder.precision import (
    load_original,
    load_quantized,
    quantize_model,
    quantized_layers,
    save_quantized,
)


def on_meta(**options):
    with torch.device("meta"):
        return SmallLanguageModel(**options).eval()


def llama(device=None):
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, vocab_size=99,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device or "cpu"):
        return transformers.LlamaForCausalLM(config).eval()


def assert_same(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.fixture
def saved(tmp_path):
    """A quantised model and its file."""
    model = make()
    compiled = thunder.compile(model, plugins=[QuantizeInt4(include="up"), QuantizeInt8(include="down")])
    save_quantized(compiled, tmp_path / "model.safetensors")
    return model, tmp_path / "model.safetensors"


@pytest.mark.parametrize("target", ["plain", "meta", "quantised"])
def test_a_file_is_loaded_without_the_original_weights(saved, target):
    model, path = saved
    loaded = on_meta() if target == "meta" else make(seed=7)
    if target == "quantised":
        quantize_model(loaded, QuantizeInt4().format(), include="up")
    assert load_quantized(loaded, path) is loaded
    assert_same(loaded, model)
    assert torch.equal(loaded(tokens()), model(tokens()))
    with torch.no_grad():
        torch.testing.assert_close(thunder.compile(loaded)(tokens()), model(tokens()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plugin", ["quantize-int8", "nvfp4", QuantizeInt4(kind="asymmetric")], ids=repr)
def test_models_of_transformers_with_tied_weights(plugin, tmp_path):
    model = llama()
    thunder.compile(model, plugins=plugin)
    save_quantized(model, tmp_path / "model.safetensors")
    loaded = load_quantized(llama("meta"), tmp_path / "model.safetensors")
    assert_same(loaded, model)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("assign", [True, False])
def test_models_on_meta_take_original_weights_straight_into_few_bits(assign):
    compiled = thunder.compile(llama("meta"), plugins="quantize-int4")
    assert all(layer.codes.is_meta for layer in quantized_layers(compiled).values())
    compiled.load_state_dict(llama().state_dict(), assign=assign)
    expected = llama()
    quantize_model(expected, QuantizeInt4().format())
    assert_same(compiled, expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens()).logits, expected(tokens()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("files", [0, 1, 2])
def test_original_weights_of_files(files, tmp_path):
    state = make(tied=True).state_dict()
    source = state
    if files:
        names = [name for name in state if name != "to_words.weight"]  # tied: once is enough
        half = len(names) // files
        source = []
        for number in range(files):
            part = names[number * half : (number + 1) * half if number < files - 1 else None]
            source.append(tmp_path / f"{number}.safetensors")
            safetensors.torch.save_file({name: state[name] for name in part}, source[-1])
        source = source[0] if files == 1 else source
    model = quantize_model(on_meta(tied=True), "fp6")
    load_original(model, source)
    assert_same(model, quantize_model(make(tied=True), "fp6"))
    assert model.to_words.weight is model.embedding.weight


def test_original_weights_are_quantised_when_they_are_loaded():
    model = quantize_model(make(seed=5), "nvfp4")
    model.load_state_dict(make().state_dict())
    assert_same(model, quantize_model(make(), "nvfp4"))
    again = quantize_model(make(seed=6), "nvfp4")
    again.load_state_dict(model.state_dict())
    assert_same(again, model)


def test_states_that_do_not_fit_a_layer():
    model = quantize_model(make(), "int4")
    state = quantize_model(make(), "nf4").state_dict()
    with pytest.raises(RuntimeError, match="stored as nf4/1x64.*the layer has int4/1x128|scales is"):
        model.load_state_dict(state)
    state = quantize_model(make(), "int4").state_dict()
    del state["blocks.0.up.scales"]
    with pytest.raises(RuntimeError, match="scales is missing"):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key.*blocks.0.up.weight"):
        model.load_state_dict({k: v for k, v in make().state_dict().items() if "0.up.weight" not in k})


def rewritten(path, change):
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    change(metadata, tensors)
    safetensors.torch.save_file(tensors, path, metadata=metadata)


def set_version(metadata, tensors):
    metadata["version"] = "9"


def damage_header(metadata, tensors):
    metadata["layers"] = "{"


def drop_scales(metadata, tensors):
    del tensors["blocks.0.up.scales"]


def other_layers(metadata, tensors):
    layers = json.loads(metadata["layers"])
    layers["blocks.7.up"] = layers["blocks.0.up"]
    metadata["layers"] = json.dumps(layers)


def drop_norm(metadata, tensors):
    del tensors["norm.weight"]


def other_shape(metadata, tensors):
    tensors["norm.weight"] = torch.ones(3)


@pytest.mark.parametrize(
    "change, message",
    [
        (set_version, "version '9'; this thunder reads version '1'"),
        (damage_header, "header of .* is damaged"),
        (drop_scales, "damaged: 'blocks.0.up.scales' is missing"),
        (other_layers, "quantised layer 'blocks.7.up' that the model does not have"),
        (drop_norm, "has no 'norm.weight'"),
        (other_shape, r"'norm.weight' is \[3\], expected \[64\]"),
    ],
)
def test_files_that_do_not_fit_leave_the_model_alone(saved, change, message):
    _, path = saved
    rewritten(path, change)
    model = make()
    with pytest.raises(CheckpointError, match=message):
        load_quantized(model, path)
    assert_same(model, make())


def test_damaged_and_foreign_files(saved, tmp_path):
    _, path = saved
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    with pytest.raises(CheckpointError, match="no safetensors file, or a damaged one"):
        load_quantized(make(), path)
    path.write_bytes(contents[:-40] + bytes([contents[-40] ^ 1]) + contents[-39:])
    with pytest.raises(CheckpointError, match="do not have their checksum"):
        load_quantized(make(), path)
    safetensors.torch.save_file(make().state_dict(), tmp_path / "original.safetensors")
    with pytest.raises(CheckpointError, match="no quantised model of thunder(.|\n)*load_original"):
        load_quantized(make(), tmp_path / "original.safetensors")
    with pytest.raises(CheckpointError, match="there is no file"):
        load_quantized(make(), tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="has no 'blocks.0.down.bias'"):
        load_original(quantize_model(on_meta(), "int8"), {"norm.weight": torch.ones(64)})


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(QuantizationError, match="no layer of the model is quantised"):
        save_quantized(make(), tmp_path / "x")
    with pytest.raises(QuantizationError, match="has no memory"):
        save_quantized(quantize_model(on_meta(), "int8"), tmp_path / "x")
    thunder.compile(model := make().eval(), plugins="quantize-int8")
    for path in (tmp_path, tmp_path / "none" / "model.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_quantized(model, path)


def test_without_safetensors(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'thunder\[checkpoints\]'"):
        save_quantized(quantize_model(make(), "int8"), tmp_path / "x")


def test_buffers_that_no_code_fills_are_named():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(32, 32)
            self.register_buffer("table", torch.arange(4.0), persistent=False)

    with torch.device("meta"):
        model = quantize_model(nn.Sequential(Positions(), nn.Linear(32, 2)), "int8")
    state = nn.Sequential(Positions(), nn.Linear(32, 2)).state_dict()
    with pytest.raises(QuantizationError, match="fills the buffers 0.table"):
        model.load_state_dict(state)
