"""`torch.compile(backend="thunder")` and the recipe that chooses Dynamo's front end."""

import pytest
import torch
from torch import nn

import thunder
from thunder.dynamo import backend, compiled_graphs
from thunder.errors import OptionError


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def test_forward_and_gradients_equal_eager():
    torch._dynamo.reset()
    eager = model()
    compiled = torch.compile(eager, backend=backend)
    x = torch.randn(3, 4)
    torch.testing.assert_close(compiled(x), eager(x))
    eager(x).sum().backward()
    expected = [p.grad.clone() for p in eager.parameters()]
    eager.zero_grad()
    compiled(x).sum().backward()
    torch.testing.assert_close([p.grad for p in eager.parameters()], expected)


def test_graph_breaks_and_inspection():
    torch._dynamo.reset()
    before = len(compiled_graphs())

    @torch.compile(backend=backend)
    def program(x):
        y = x * 2
        if y.sum() > 0:
            return y + 1
        return y - 1

    x = torch.ones(3)
    torch.testing.assert_close(program(x), x * 2 + 1)
    torch.testing.assert_close(program(-x), -x * 2 - 1)
    graphs = compiled_graphs()[before:]
    assert len(graphs) >= 2
    assert "torch" in str(thunder.last_traces(graphs[-1])[0])


def test_dynamic_sizes():
    torch._dynamo.reset()
    before = len(compiled_graphs())
    compiled = torch.compile(lambda x: x.reshape(-1) * x.shape[0], backend=backend)
    for size in range(2, 12):
        x = torch.randn(size, 3)
        torch.testing.assert_close(compiled(x), x.reshape(-1) * size)
    assert len(compiled_graphs()) - before <= 2


def test_recipe_and_transforms():
    torch._dynamo.reset()
    seen = []

    def note(trace):
        seen.append(len(trace.ops))
        return trace

    class Noting(thunder.Plugin):
        def apply(self, choices, target):
            choices.transforms.append(note)
            return choices

    eager = model()
    compiled = thunder.compile(eager, recipe="dynamo", plugins=Noting())
    x = torch.randn(3, 4)
    torch.testing.assert_close(compiled(x), eager(x))
    assert seen


def test_options_are_checked():
    torch._dynamo.reset()
    with pytest.raises(OptionError, match="known"):
        backend(torch.fx.symbolic_trace(model()), [], options={"nothing": 1})


def test_grad():
    x, y = torch.randn(3), torch.randn(3)
    gradient = thunder.grad(lambda x, y: (x * y.sin()).sum(), argnums=(0, 1), executors=["eager"])
    torch.testing.assert_close(gradient(x, y), (y.sin(), x * y.cos()))
    with pytest.raises(OptionError, match="scalar"):
        thunder.grad(lambda x: x * 2, executors=["eager"])(x)
