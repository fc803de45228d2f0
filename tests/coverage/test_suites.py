"""A small, representative part of every suite passes; the whole is run by `thunder coverage`."""

from __future__ import annotations

import importlib.util

import pytest

from thunder.coverage.outcomes import RowResult
from thunder.coverage.runner import Plan, Run

SUBJECT = "thunder-eager"
MODEL_PHASES = {"build", "eager", "forward", "backward"}
ROWS = {
    "transformers": [
        "llama",
        "bert",
        "t5",
        "vit",
        "clip",
        "mamba",
        "mixtral",
        "gpt2",
        "qwen2_vl",
        "idefics3",
        "whisper",
        "vits",
    ],  # fmt: skip
    "ops": ["add:float32", "sort:int64", "cat:float32", "linalg.norm:complex64", "index_put:bfloat16", "view_as:bool"],
    "litgpt": ["Llama-3.1-8B", "Gemma-2b", "phi-2", "Mixtral-8x7B-v0.1"],
    "diffusers": ["UNet2DModel", "FluxTransformer2DModel"],
    "vision": ["transformers/resnet"],
    "programs": ["00000-00049"],
}
NEEDED = {"litgpt": "litgpt", "diffusers": "diffusers", "vision": "transformers", "transformers": "transformers"}


def run(suite: str, tmp_path) -> list[RowResult]:
    module = NEEDED.get(suite)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    phases = ["forward", "backward"] if suite not in ("ops", "programs") else []
    return Run(Plan([suite], [SUBJECT], tmp_path, only=ROWS[suite], phases=phases, row_timeout=600)).execute()


@pytest.mark.parametrize("suite", list(ROWS))
def test_rows_pass(suite, tmp_path):
    results = run(suite, tmp_path)
    assert sorted(result.row for result in results) == sorted(ROWS[suite])
    failed = [
        f"{result.row} {name} {failure.case}: {failure.summary}"
        for result in results
        for name, phase in result.phases.items()
        for failure in phase.failures
        if failure.status.is_failure
    ]
    assert not failed
    for result in results:
        assert all(phase.passed or name.endswith("gradient") for name, phase in result.phases.items()), result.row
        assert suite in ("ops", "programs") or set(result.phases) == MODEL_PHASES


def test_generation_with_both_caches_and_with_our_loop(tmp_path):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    plan = Plan(["transformers"], [SUBJECT], tmp_path, only=["gpt2"], phases=["generate"], row_timeout=600)
    (result,) = Run(plan).execute()
    assert result.phases["generate"].passed == 4, result.phases["generate"].failures


def test_the_default_executors_pass(tmp_path):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    plan = Plan(["transformers"], ["thunder"], tmp_path, only=["gpt2"], phases=["forward"], row_timeout=600)
    (result,) = Run(plan).execute()
    assert result.phases["forward"].passed == 1, result.phases["forward"].failures


def test_a_run_is_resumed(tmp_path):
    first = Run(Plan(["programs"], ["eager"], tmp_path, only=["00000-00049"]))
    results = first.execute()
    again = Run(Plan(["programs"], ["eager"], tmp_path, only=["00000-00049", "00050-00099"], resume=True))
    assert [row.row for row in again.results] == [row.row for row in results]
    assert [task.row for task in again.pending] == ["00050-00099"]
