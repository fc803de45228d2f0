"""The eager executor alone: the torch-level trace as it stands."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lower"))
from record import record

from thunder.executors import compile_computation, resolve_executors


def compile_eagerly(function, *args):
    trace, inputs = record(function, *args)
    compiled = compile_computation(trace, executors=resolve_executors(["eager"]), grad_enabled=torch.is_grad_enabled())
    return compiled, inputs


def test_values_and_gradients_are_eager_s():
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    x = torch.randn(3, 8, requires_grad=True)
    compiled, inputs = compile_eagerly(model, x)
    (result,) = compiled.run(*inputs)
    expected = model(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(result.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_dead_values_are_deleted_after_their_last_use():
    compiled, _ = compile_eagerly(lambda x: (x.sin().cos() + x).exp(), torch.randn(4))
    text = str(compiled.forward_traces[-1])
    assert "del t0" in text and "del t1" in text and "del x" not in text


def test_contexts_are_left_when_an_operation_raises():
    def function(x):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x, torch.linalg.cholesky(x)

    compiled, _ = compile_eagerly(function, torch.eye(3))
    (good, factor) = compiled.run(torch.eye(3))
    assert good.dtype is torch.bfloat16 and not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    with pytest.raises(torch.linalg.LinAlgError):
        compiled.run(-torch.eye(3))
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def test_in_place_operations_reach_the_inputs():
    def function(x, counter):
        counter.add_(1)
        return x * counter

    compiled, _ = compile_eagerly(function, torch.ones(2), torch.zeros(()))
    counter = torch.zeros(())
    compiled.run(torch.ones(2), counter)
    assert compiled.run(torch.ones(2), counter)[0].tolist() == [2.0, 2.0]
