"""Tensor parallelism: processes with parts of the layers compute what one process computes with all of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import thunder
from tests.distributed.models import Trained, make
from tests.distributed.processes import Processes
from thunder.distributed import automatic_plan
from thunder.errors import MeshError, ShardingPlanError
from thunder.plugins import TP

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def ten_steps(rank: int, name: str, sequence_parallel: bool = False, columns: int | None = None) -> None:
    model, loss, batches = make(name)
    batches = batches[..., :columns]
    expected = Trained(model, loss, batches)
    model, loss, _ = make(name)
    compiled = thunder.compile(model, recipe="eager", plugins=TP(sequence_parallel=sequence_parallel))
    trained = Trained(compiled, loss, batches)
    torch.testing.assert_close(trained.losses, expected.losses, **TOLERANCE)
    torch.testing.assert_close(trained.gradients, expected.gradients, **TOLERANCE)
    torch.testing.assert_close(trained.parameters, expected.parameters, **TOLERANCE)
    statistics = thunder.compile_stats(compiled)
    assert statistics.cache_misses == 1 and not any("operation by" in note for note in statistics.notes), statistics
    backward = str(thunder.last_backward_traces(compiled)[-1])
    assert ("_c10d_functional.reduce_scatter" if sequence_parallel else "_c10d_functional.all_reduce") in backward


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


def sequences_and_vocabularies(rank: int) -> None:
    """Sequence parallelism, and a loss within the model whose logits stay divided, train as one process does."""
    for name in ("llama", "litgpt"):
        ten_steps(rank, name, sequence_parallel=True, columns=5)

    def own_loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        labels = x[:, 1:].masked_fill(x[:, 1:] == 3, -100)
        return WithLoss.of(model)(x[:, :-1], labels)

    model, _, batches = make("litgpt")
    expected = Trained(model, own_loss, batches, steps=3)
    model, _, batches = make("litgpt")
    holder = WithLoss.of(model)
    plan = {f"model.{pattern}": style for pattern, style in automatic_plan(model).items()}
    compiled = thunder.compile(holder, recipe="eager", plugins=TP(plan=plan))
    trained = Trained(compiled, lambda m, x: m(x[:, :-1], x[:, 1:].masked_fill(x[:, 1:] == 3, -100)), batches, steps=3)
    torch.testing.assert_close(trained.losses, expected.losses, **TOLERANCE)
    assert {n.removeprefix("model."): g.shape for n, g in trained.gradients.items()} == {
        n: g.shape for n, g in expected.gradients.items()
    }
    for parameter, value in trained.parameters.items():
        torch.testing.assert_close(value, expected.parameters[parameter.removeprefix("model.")], **TOLERANCE)
    forward = thunder.last_traces(compiled)[-1]
    assert "all_gather" not in str(forward) and "amax" in str(forward)


class WithLoss(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    @staticmethod
    def of(model: torch.nn.Module) -> WithLoss:
        return WithLoss(model)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.model(tokens).double()
        return F.cross_entropy(logits[:, 1:].reshape(-1, logits.shape[-1]), labels[:, 1:].flatten())


def test_divided_sequences_and_vocabularies(two: Processes) -> None:
    two.run(sequences_and_vocabularies)
