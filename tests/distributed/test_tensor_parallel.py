"""Tensor parallelism: processes with parts of the layers compute what one process computes with all of them."""

from __future__ import annotations

import pytest
import torch

import thunder
from tests.distributed.models import Trained, make
from tests.distributed.processes import Processes
from thunder.errors import MeshError, ShardingPlanError
from thunder.plugins import TP

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def ten_steps(rank: int, name: str) -> None:
    model, loss, batches = make(name)
    expected = Trained(model, loss, batches)
    model, loss, batches = make(name)
    compiled = thunder.compile(model, recipe="eager", plugins=TP())
    trained = Trained(compiled, loss, batches)
    torch.testing.assert_close(trained.losses, expected.losses, **TOLERANCE)
    torch.testing.assert_close(trained.gradients, expected.gradients, **TOLERANCE)
    torch.testing.assert_close(trained.parameters, expected.parameters, **TOLERANCE)
    statistics = thunder.compile_stats(compiled)
    assert statistics.cache_misses == 1 and not any("operation by" in note for note in statistics.notes), statistics
    backward = str(thunder.last_backward_traces(compiled)[-1])
    assert "_c10d_functional.all_reduce" in backward


@pytest.mark.parametrize("name", ["llama", "litgpt"])
def test_two_processes_train_as_one_does(two: Processes, name: str) -> None:
    two.run(ten_steps, name)


def generates(rank: int) -> None:
    tokens = torch.arange(5)[None] + 3
    expected = make("llama")[0].eval().generate(tokens, max_new_tokens=4, do_sample=False)
    compiled = thunder.compile(make("llama")[0].eval(), recipe="eager", plugins=TP())
    assert compiled.generate(tokens, max_new_tokens=4, do_sample=False).tolist() == expected.tolist()
    with torch.no_grad():
        cache = compiled(input_ids=tokens, use_cache=True).past_key_values
    assert cache.layers[0].keys.shape[1] == 1  # of two key-value heads


def test_generation_with_a_divided_cache(two: Processes) -> None:
    two.run(generates)


def bad_plans(rank: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    with pytest.raises(ShardingPlanError, match="names 'up', and the model has no such module"):
        thunder.compile(model, plugins=TP(plan={"up": "colwise"}))
    with pytest.raises(ShardingPlanError, match="known styles"):
        thunder.compile(model, plugins=TP(plan={"0": "diagonal"}))
    with pytest.raises(ShardingPlanError, match="is a ReLU"):
        thunder.compile(model, plugins=TP(plan={"1": "rowwise"}))
    with pytest.raises(MeshError, match="'2' has 3 output features, which 2 processes cannot divide"):
        thunder.compile(model, plugins=TP(plan={"2": "colwise"}))
    with pytest.raises(ShardingPlanError, match="brings no plan"):
        thunder.compile(model, plugins="tp")


def test_plans_that_do_not_fit(two: Processes) -> None:
    two.run(bad_plans)
