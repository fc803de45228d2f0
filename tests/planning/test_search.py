"""Predictions of plans and the search among them."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thunder.errors import PlanningError
from thunder.planning import (
    Fixed,
    Job,
    Mesh,
    ModelTracer,
    Plan,
    PlannedModel,
    get_device,
    make_config,
    predict,
    search,
)
from thunder.planning.predict import stages_of
from thunder.planning.search import scaling_meshes

H100 = get_device("h100")
CONFIG = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip
JOB = Job(PlannedModel("small", make_config(CONFIG, "small")), sequence=2048, batch=64)
ALONE = Plan(copies=1, shard=1, stage=0, tensor=1, pipeline=1, micro_batch=1, checkpointing=False)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tracer():
    return ModelTracer(JOB)


def prediction(tracer, mesh: str, job: Job = JOB, **changes):
    plan = replace(ALONE, **changes)
    assert plan.size == Mesh.parse(mesh).size
    return predict(job, Mesh.parse(mesh), H100, plan, tracer(plan.micro_batch, plan.tensor))


def test_one_gpu_communicates_nothing(tracer):
    alone = prediction(tracer, "1x1")
    assert alone.parts.data_parallel == alone.parts.tensor_parallel == alone.parts.bubble == 0.0
    assert alone.tokens_per_second == pytest.approx(JOB.tokens / alone.seconds)
    assert 0.2 < alone.utilisation < 0.8


def test_memory_of_one_gpu_is_eighteen_bytes_a_parameter_and_activations(tracer):
    alone = prediction(tracer, "1x1").memory
    parameters = tracer(1, 1).parameters
    assert alone.state + alone.parameters + alone.gradients == 18 * parameters
    layers = 8 * tracer(1, 1).layer.saved
    assert alone.saved > layers and alone.total > 18 * parameters + layers


def test_sharding_divides_the_state_and_costs_gathers(tracer):
    alone = prediction(tracer, "1x1").memory
    sharded = prediction(tracer, "1x8", shard=8, stage=3)
    assert sharded.memory.state == pytest.approx(alone.state / 8)
    assert sharded.parts.data_parallel > 0
    kept = prediction(tracer, "1x8", shard=8, stage=2)
    assert kept.memory.parameters > sharded.memory.parameters and kept.memory.total > sharded.memory.total


def test_communication_is_hidden_as_far_as_there_is_computation(tracer):
    """Four sequences at a time compute four times as long beside the same gathers."""
    short = prediction(tracer, "4x8", shard=32, stage=3)
    long = prediction(tracer, "4x8", replace(JOB, batch=256), shard=32, stage=3, micro_batch=4)
    assert long.parts.data_parallel / long.seconds < short.parts.data_parallel / short.seconds


def test_checkpointing_saves_memory_and_costs_a_forward_pass(tracer):
    kept, again = prediction(tracer, "1x1"), prediction(tracer, "1x1", checkpointing=True)
    assert again.memory.saved < 0.4 * kept.memory.saved
    assert again.parts.recomputation > 0 == kept.parts.recomputation
    assert again.seconds == pytest.approx(kept.seconds + again.parts.recomputation)
    assert again.utilisation < kept.utilisation


def test_a_pipeline_idles_less_with_more_micro_batches(tracer):
    few = prediction(tracer, "1x4", replace(JOB, batch=4), pipeline=4)
    many = prediction(tracer, "1x4", pipeline=4)
    assert few.parts.bubble / few.seconds > 4 * many.parts.bubble / many.seconds
    interleaved = prediction(tracer, "1x4", replace(JOB, schedule="interleaved"), pipeline=4)
    filled = prediction(tracer, "1x4", replace(JOB, schedule="zero-bubble"), pipeline=4)
    assert interleaved.parts.bubble < many.parts.bubble and filled.parts.bubble < many.parts.bubble
    all_at_once = prediction(tracer, "1x4", replace(JOB, schedule="gpipe"), pipeline=4)
    assert all_at_once.memory.saved > many.memory.saved


def test_stages_have_all_layers_and_take_equally_long(tracer):
    segments = tracer(1, 1)
    stages = stages_of(segments, 4, H100)
    assert stages[0][0] is segments.head and stages[-1][-1] is segments.tail
    assert sum(segment is segments.layer for stage in stages for segment in stage) == 8
    assert len(stages[-1]) - 1 < len(stages[1])  # the last one has the head of the vocabulary


def test_tensor_parallelism_over_nodes_is_not_searched(tracer):
    found = search(JOB, Mesh(2, 4), H100, Fixed(micro_batch=1), tracer)
    assert {p.plan.tensor for p in found} == {1, 2, 4}
    assert all(p.plan.size == 8 for p in found)
    assert len({p.plan for p in found}) == len(found)
    times = [p.seconds for p in found if p.fits]
    assert times == sorted(times) and found[0].fits


def test_what_is_fixed_is_kept(tracer):
    fixed = Fixed(tensor=2, pipeline=2, stage=3, micro_batch=1, checkpointing=True)
    for found in search(JOB, Mesh(1, 8), H100, fixed, tracer):
        plan = found.plan
        assert (plan.tensor, plan.pipeline, plan.stage, plan.checkpointing) == (2, 2, 3, True)


def test_a_small_memory_fits_nothing_and_says_so(tracer):
    tiny = replace(H100, memory=1e9)
    found = search(JOB, Mesh(1, 2), tiny, Fixed(micro_batch=1), tracer)
    assert not any(p.fits for p in found)
    assert found[0].memory.total == min(p.memory.total for p in found)


@pytest.mark.parametrize(
    ("mesh", "job", "fixed", "message"),
    [
        ("1x8", replace(JOB, batch=7), Fixed(tensor=1, pipeline=1), "no plan divides 7 sequences"),
        ("1x8", JOB, Fixed(tensor=3), "do not divide by tp 3"),
        ("3x8", JOB, Fixed(tensor=3), "does not divide a node of 8"),
        ("1x8", JOB, Fixed(tensor=8), "num_key_value_heads=4 does not divide by 8"),
        ("2x8", JOB, Fixed(pipeline=16), "has 8 layers, fewer than pp 16"),
    ],
)
def test_what_does_not_divide_is_named(tracer, mesh, job, fixed, message):
    with pytest.raises(PlanningError, match=message):
        search(job, Mesh.parse(mesh), H100, fixed, tracer)


def test_meshes():
    assert Mesh.parse("64x8") == Mesh(64, 8) and Mesh.parse("4") == Mesh(1, 4)
    assert [mesh.size for mesh in scaling_meshes(Mesh(12, 8))] == [8, 16, 32, 64, 96]
    for text in ("", "8x", "0x8", "two", "8x0", "2x2x2"):
        with pytest.raises(PlanningError, match="is no mesh"):
            Mesh.parse(text)


@pytest.mark.parametrize("name", ["vit-base", "litgpt-train"])
def test_a_measured_step_is_predicted_within_15_percent(monkeypatch, name):
    """Steps that lent the model no figure; all of them: `python benchmarks/plan_validation.py`."""
    path = REPOSITORY / "benchmarks" / "plan_validation.py"
    specification = importlib.util.spec_from_file_location("plan_validation", path)
    validation = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, validation)  # dataclasses look their module up
    specification.loader.exec_module(validation)
    (measured,) = [step for step in validation.measured_steps() if step.workload == name]
    workload = next(w for w in validation.large_workloads(validation.FULL) if w.name == name)
    predicted = validation.predict_workload(workload)
    assert name not in validation.FITTED
    milliseconds = predicted.milliseconds + 1e3 * H100.step_seconds
    assert milliseconds / measured.milliseconds == pytest.approx(1.0, abs=0.15)
