"""Tiny configurations keep the architecture and lose the size."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers", reason="the suite covers transformers' models")

from thunder.coverage.suites.transformers import SUITE, build  # noqa: E402
from thunder.coverage.tiny_configuration import SCALES, tiny_configuration  # noqa: E402


@pytest.mark.parametrize("model_type", ["llama", "bert", "t5", "vit", "clip", "mixtral", "mamba", "whisper", "llava"])
def test_models_are_small_and_run(model_type):
    case = build(model_type)
    assert sum(parameter.numel() for parameter in case.model.parameters()) < 2_000_000
    assert case.inputs


def test_kinds_of_layers_are_kept():
    config = tiny_configuration(transformers.Gemma3TextConfig, {})
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert len(config.layer_types) == config.num_hidden_layers <= 8


def test_queries_keep_sharing_keys():
    assert tiny_configuration(transformers.Qwen3Config, {}).num_key_value_heads == 4
    shared = tiny_configuration(transformers.MistralConfig, {})
    assert 1 < shared.num_key_value_heads < shared.num_attention_heads


def test_sub_configurations_shrink_and_agree():
    config = tiny_configuration(transformers.CLIPConfig, {})
    assert config.text_config.hidden_size == config.vision_config.hidden_size == 64
    assert config.vision_config.image_size == 4 * config.vision_config.patch_size


def test_overrides_win():
    config = tiny_configuration(transformers.LlamaConfig, {"num_hidden_layers": 5, "hidden_size": 96}, SCALES[0])
    assert (config.num_hidden_layers, config.hidden_size) == (5, 96)


def test_every_model_type_is_a_row():
    rows = SUITE.row_names()
    assert len(rows) == len(set(rows)) > 300
