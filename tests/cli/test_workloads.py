"""The workloads: they build the same model every time, and a step returns what it says."""

from __future__ import annotations

import numpy
import pytest
import torch

from thunder.cli.double_precision import InDoublePrecision
from thunder.cli.large_workloads import SMALL, large_workloads, region
from thunder.cli.measurement import allowed_error, relative_error
from thunder.cli.roofline import count_work
from thunder.cli.workloads import (
    DEMONSTRATION,
    FIGURES,
    GENERATED_TOKENS,
    OPTIMISER_STEPS,
    causal_language_model,
    results,
    select_workloads,
    step,
    surroundings,
    truth,
)
from thunder.errors import OptionError

WORKLOADS = {workload.name: workload for workload in (*DEMONSTRATION, *FIGURES)}
EXPECTED = {
    "inference": {"output"},
    "training": {"loss", "gradients"},
    "optimisation": {"losses"},
    "generation": {"tokens"},
}


def run(workload):
    task = workload.build()
    with surroundings(workload.kind):
        return results(task, workload.kind, step(task, workload.kind, task.model)())


def test_names_are_unique():
    assert len(WORKLOADS) == len(DEMONSTRATION) + len(FIGURES)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_step_repeats(name):
    workload = WORKLOADS[name]
    first, second = run(workload), run(workload)
    assert set(first) == EXPECTED[workload.kind]
    assert all(numpy.array_equal(first[key], second[key]) for key in first)
    assert isinstance(workload.describe(first), str)


@pytest.mark.parametrize("name", [w.name for w in WORKLOADS.values() if w.kind != "generation"])
def test_float64_is_near_and_exact(name):
    workload = WORKLOADS[name]
    exact = truth(workload.build(), workload)
    assert all(array.dtype == numpy.float64 for array in exact.values())
    assert 0 < relative_error(run(workload), exact) < 1e-4


def test_generation_visits_many_tokens():
    tokens = run(WORKLOADS["llama-dynamic-cache"])["tokens"]
    assert tokens.shape == (1, GENERATED_TOKENS) and len(set(tokens[0].tolist())) > GENERATED_TOKENS // 2


def test_both_caches_generate_the_same():
    dynamic, static = run(WORKLOADS["qwen2-dynamic-cache"]), run(WORKLOADS["qwen2-static-cache"])
    assert numpy.array_equal(dynamic["tokens"], static["tokens"])


def test_optimisation_learns_and_leaves_the_model_as_it_was():
    workload = WORKLOADS["litgpt-optimiser"]
    task = workload.build()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    losses = results(task, workload.kind, step(task, workload.kind, task.model)())["losses"]
    assert losses.shape == (OPTIMISER_STEPS,) and losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_trained_sentence_encoder_knows_paraphrases():
    embeddings = run(WORKLOADS["minilm"])["output"]
    similarity = embeddings @ embeddings.T
    assert min(similarity[0, 1], similarity[2, 3]) > 0.5 > 0.3 > similarity[:4, 4:].max()


def test_double_precision_overrides_requests_for_float32():
    with InDoublePrecision():
        assert torch.ones(2).dtype == torch.float64
        assert torch.ones(2, dtype=torch.float32).float().to(torch.float32).dtype == torch.float64
        assert torch.nn.functional.softmax(torch.ones(2), 0, dtype=torch.float32).dtype == torch.float64
    assert torch.ones(2).dtype == torch.float32


def test_double_precision_reaches_casts_inside_models():
    task = causal_language_model("Llama").in_precision(torch.float64)
    with torch.no_grad():
        partly = task.select(task.model(*task.args, **task.kwargs))
        with InDoublePrecision():
            wholly = task.select(task.model(*task.args, **task.kwargs))
    assert partly.dtype == wholly.dtype == torch.float64
    assert not torch.equal(partly, wholly), "the model casts to float32 somewhere"


def test_unknown_workload_lists_the_known():
    assert select_workloads(FIGURES, None) == list(FIGURES)
    assert [w.name for w in select_workloads(FIGURES, ["qwen2-forward"])] == ["qwen2-forward"]
    with pytest.raises(OptionError, match="tiny-mlp"):
        select_workloads(FIGURES, ["qwen3"])


def test_allowed_error_has_room_above_eager():
    assert allowed_error(1e-6) > 1e-6


@pytest.mark.parametrize("workload", large_workloads(SMALL), ids=lambda workload: workload.name)
def test_small_versions_of_the_large_workloads_run(workload):
    assert set(run(workload)) == EXPECTED[workload.kind]


def test_work_is_counted():
    task = region(SMALL, "swiglu")
    workload = next(w for w in large_workloads(SMALL) if w.name == "region-swiglu")
    gate = next(task.model.parameters())
    assert count_work(task, workload, step(task, "training", task.model)).bytes == 2 * 3 * gate.numel() * 4


def test_every_workload_has_a_name_of_its_own():
    """Workers are asked for workloads by name."""
    names = [workload.name for workload in (*DEMONSTRATION, *FIGURES, *large_workloads(SMALL))]
    assert len(names) == len(set(names))
