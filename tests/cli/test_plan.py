"""`thunder plan`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from thunder.cli.app import build_app
from thunder.errors import OptionError

CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return path


def plan(*arguments, **options):
    return CliRunner().invoke(build_app(), ["plan", *map(str, arguments)], **options)


def test_the_best_plans_of_a_directory_with_a_configuration(config, tmp_path):
    out = tmp_path / "plans.json"
    result = plan(
        "--model", config.parent, "--mesh", "2x4", "--sequence", 64, "--batch", 32, "--micro-batch", 1, "--tp", 2,
        "--json", out, env={"COLUMNS": "160"},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "small on 2x4 NVIDIA H100" in result.output and "tp 2" in result.output
    found = json.loads(out.read_text())
    best = found["plans"][0]
    assert found["model"] == "small" and best["fits"] and best["tensor"] == 2
    assert best["step_seconds"] == pytest.approx(sum(best["parts"].values()))
    assert best["memory_bytes"] == pytest.approx(sum(best["memory"].values()))
    assert best["copies"] * best["shard"] * best["tensor"] * best["pipeline"] == 8
    assert [p["step_seconds"] for p in found["plans"]] == sorted(p["step_seconds"] for p in found["plans"])


def test_the_picture_of_scaling(config, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "scaling.svg"
    result = plan(
        "--model", config, "--mesh", "2x2", "--sequence", 64, "--batch", 8, "--micro-batch", 1, "--tp", 1,
        "--plot", picture,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "tokens a second and GPU" in picture.read_text()


def test_drawing_without_matplotlib_is_refused_before_anything_is_traced(monkeypatch, tmp_path):
    monkeypatch.setattr("thunder.cli.plot.importlib.util.find_spec", lambda name: None)
    result = plan("--model", "nothing", "--mesh", "1x8", "--plot", tmp_path / "x.svg")
    assert isinstance(result.exception, OptionError) and "matplotlib" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh", "8x"], "is no mesh"),
        (["--device", "h300"], "unknown device 'h300'"),
        (["--model", "llama-9b"], "there is no model 'llama-9b'"),
        (["--precision", "fp4"], "unknown precision"),
        (["--schedule", "2f2b"], "unknown schedule"),
        (["--stage", "1"], "unknown stage"),
    ],
)
def test_mistakes_name_what_is_known(config, options, message):
    defaults = {"--model": str(config), "--mesh": "1x8"} | {options[0]: options[1]}
    result = plan(*(word for pair in defaults.items() for word in pair))
    assert isinstance(result.exception, OptionError) and message in str(result.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "is no configuration of a transformers model"),
        ('{"hidden_size": 8}', "has no 'model_type'"),
        ('{"model_type": "a new one"}', "knows no model_type 'a new one'"),
        ('{"model_type": "vit"}', "no causal language model"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    result = plan("--model", path, "--mesh", "1x8")
    assert isinstance(result.exception, OptionError) and message in str(result.exception)
