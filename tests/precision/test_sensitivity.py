"""Which layers bear which format: the errors, the mix, and that the model is left as it was."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from tests.precision.models import make, tokens
from thunder.errors import OptionError, QuantizationError
from thunder.precision import memory_of, quantized_layers, sensitivity
from thunder.precision.formats import quantize

FORMATS = ("int8", "int4", "mxfp4")


def sensitive_model():
    """The last layer's weight has an outlier in each group: few bits cost it dearly."""
    model = make()
    with torch.no_grad():
        model.blocks[1].down.weight[:, ::32] *= 30
    return model


def test_errors_and_mix():
    model, batches = sensitive_model(), [tokens(4, 9), (tokens(2, 5),)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sensitivity(model, batches, FORMATS, memory=0.2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    errors = {(row.layer, row.format): row.error for row in found.rows}
    assert len(errors) == 6 * 3
    for layer in ("blocks.0.up", "blocks.1.down"):
        assert 0 < errors[layer, "int8"].divergence < 0.1 * errors[layer, "int4"].divergence
        assert errors[layer, "int8"].cosine > errors[layer, "mxfp4"].cosine
    worst = max(errors, key=lambda key: errors[key].divergence)
    assert worst[0] == "blocks.1.down"
    assert found.mix["blocks.1.down"] == "int8" and found.memory <= 0.2
    assert found.mix_error.divergence > 0 and math.isnan(found.mix_error.perplexity)
    row = next(row for row in found.rows if row.layer == "blocks.0.up" and row.format == "int8")
    assert row.bytes_after == quantize(model.blocks[0].up.weight, "int8").nbytes
    table = found.table()
    assert table.splitlines()[0] == "| layer | int8 | int4 | mxfp4 |" and "*" in table and "mix: 0." in table
    quantised = found.apply(sensitive_model())
    assert set(quantized_layers(quantised)) == set(found.mix) and memory_of(quantised) < memory_of(model)


def test_a_budget_of_error_is_kept():
    model = sensitive_model()
    small = sensitivity(model, [tokens(4, 9)], FORMATS, error=1e-4)
    large = sensitivity(model, [tokens(4, 9)], FORMATS, error=1.0)
    assert large.memory < small.memory
    total = sum(row.error.divergence for row in small.rows if small.mix.get(row.layer) == row.format)
    assert total <= 1e-4


def test_models_of_transformers_and_perplexity():
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=96, n_positions=32)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = tokens(2, 12)
    found = sensitivity(model, [{"input_ids": ids, "labels": ids}], ["int8", "nvfp4"])
    with torch.no_grad():
        expected = math.exp(model(ids, labels=ids).loss)
    assert found.reference.perplexity == pytest.approx(expected, rel=1e-4)
    assert "perplexity" in found.table()


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    sensitivity(make(), [tokens()], ["int8"]).plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input():
    model = make()
    with pytest.raises(OptionError, match="no mix of these formats takes 0.100"):
        sensitivity(model, [tokens()], ["int8"], memory=0.1)
    with pytest.raises(OptionError, match="both a budget"):
        sensitivity(model, [tokens()], memory=0.1, error=1)
    with pytest.raises(OptionError, match="nothing to measure"):
        sensitivity(model, [])
    with pytest.raises(OptionError, match="unknown format 'int3'"):
        sensitivity(model, [tokens()], ["int3"])
    with pytest.raises(OptionError, match="training mode"):
        sensitivity(make().train(), [tokens()], ["int8"])
    with pytest.raises(QuantizationError, match="fits no linear layer"):
        sensitivity(model, [tokens()], include="attention")
