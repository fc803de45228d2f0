"""`torch.compile(backend="thunder")` and the recipe that chooses Dynamo's front end."""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._higher_order_ops import while_loop

import thunder
from thunder.dynamo import backend, compiled_graphs
from thunder.errors import OptionError, SharpEdgeWarning


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


@pytest.mark.parametrize("executors", [["eager"], None], ids=["eager", "default"])
def test_training_across_a_break_with_sizes_that_vary(executors):
    torch._dynamo.reset()
    before = len(compiled_graphs())
    eager = model()

    def step(x):
        hidden = eager[1](eager[0](x))
        if hidden.sum() > 1e6:  # a break: two graphs, gradients flow through both
            hidden = hidden * 0
        return eager[2](hidden * hidden.shape[0]).pow(2).mean()

    compiled = torch.compile(step, backend=backend, options={"executors": executors})
    for rows in (3, 5, 6, 9):
        x, found = torch.randn(rows, 4), []
        for function in (step, compiled):
            eager.zero_grad()
            loss = function(x)
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in eager.parameters())])
        torch.testing.assert_close(*found)
    graphs = compiled_graphs()[before:]
    assert 2 <= len(graphs) <= 4  # each part for the first size, and once for all others
    for graph in graphs:
        assert thunder.last_traces(graph) and thunder.compile_stats(graph).plain_calls == 0


@pytest.mark.parametrize("options", [{}, {"executors": ["eager"]}], ids=["default", "eager"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_checkpointed_part_draws_the_same_numbers_again(options, dynamic):
    torch._dynamo.reset()
    torch.manual_seed(0)
    before = compiled_graphs()
    layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 3))

    def program(x):
        return torch.utils.checkpoint.checkpoint(layers, x, use_reentrant=False) + x

    compiled = torch.compile(program, backend=backend, dynamic=dynamic, options=options)
    for rows in (5, 7):
        found = []
        for function in (program, compiled):
            torch.manual_seed(3)
            x = torch.ones(rows, 3, requires_grad=True)
            function(x).square().sum().backward()
            found.append((x.grad, torch.rand(1)))
        torch.testing.assert_close(*found)
    graphs = [graph for graph in compiled_graphs() if graph not in before]
    assert graphs and all(thunder.compile_stats(graph).plain_calls == 0 for graph in graphs)


def test_a_checkpointed_part_that_runs_in_plain_python():
    torch._dynamo.reset()

    def part(x):
        return torch.dropout(x.sin(), 0.5, True) * 2

    def program(x):
        (count,) = while_loop(lambda n: n < 3, lambda n: (n + 1,), (torch.tensor(0),))
        return torch.utils.checkpoint.checkpoint(part, x, use_reentrant=False) * count

    compiled = torch.compile(program, backend=backend)
    found = []
    for function in (program, compiled):
        torch.manual_seed(3)
        x = torch.linspace(0.1, 2, 40).requires_grad_()
        with pytest.warns(SharpEdgeWarning) if function is compiled else contextlib.nullcontext():
            function(x).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


def test_marked_dimensions_give_one_graph():
    torch._dynamo.reset()
    before = compiled_graphs()
    compiled = torch.compile(lambda x: (x * x.shape[0]).sum(0), backend=backend)
    for rows in (4, 7, 11):
        x = torch.randn(rows, 3)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), (x * rows).sum(0))
    assert len([graph for graph in compiled_graphs() if graph not in before]) == 1


def test_transforms_and_executors_apply_to_each_graph():
    torch._dynamo.reset()
    before, seen = len(compiled_graphs()), []

    def note(trace):
        seen.append([op.name for op in trace.ops])
        return trace

    @torch.compile(backend=backend, options={"transforms": [note], "executors": ["eager"]})
    def program(x):
        y = x.sin()
        torch._dynamo.graph_break()
        return y.cos()

    x = torch.randn(3)
    torch.testing.assert_close(program(x), x.sin().cos())
    assert any("sin" in name for name in seen[0]) and any("cos" in name for name in seen[1])
    for graph in compiled_graphs()[before:]:
        assert "def prologue" in thunder.last_prologue(graph) and len(thunder.last_traces(graph)) >= 2


def test_the_backend_is_registered_by_name():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '[project.entry-points.torch_dynamo_backends]\nthunder = "thunder.dynamo:backend"' in text


def test_the_recipe_compiles_models_with_breaks_for_training():
    torch._dynamo.reset()

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.up(x)
            return self.down(x.relu() if x.sum() > 0 else x.tanh())

    eager = Branching()
    compiled = thunder.compile(eager, recipe="dynamo")
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        found = []
        for function in (eager, compiled):
            eager.zero_grad()
            function(x).sum().backward()
            found.append([p.grad.clone() for p in eager.parameters()])
        torch.testing.assert_close(*found)


class Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0] * 5


@pytest.mark.parametrize("executors", [["eager"], ["aten"]])
@pytest.mark.parametrize(
    "program",
    [
        lambda x: Exponential.apply(x * 2).sum(),
        lambda x: torch.func.vmap(lambda row: row.sin().sum())(x).sum(),
        lambda x: torch.func.grad(lambda y: (y**3).sum())(x).sum(),
        lambda x: torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,)).sum(),
    ],
    ids=["custom function", "vmap", "grad", "cond"],
)
def test_functions_of_functions_keep_their_gradients(program, executors):
    torch._dynamo.reset()
    compiled = torch.compile(program, backend=backend, options={"executors": executors, "on_break": "error"})
    ours, theirs = (torch.linspace(0.1, 1, 6).reshape(2, 3).requires_grad_() for _ in range(2))
    expected = torch.compile(program, backend="eager")(theirs)
    found = compiled(ours)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs))


def test_a_graph_that_thunder_does_not_know_runs_as_dynamo_made_it():
    class Labelled(torch.Tensor):
        pass

    torch._dynamo.reset()
    x = torch.randn(3).as_subclass(Labelled)
    with pytest.warns(SharpEdgeWarning, match="plain Python"):
        found = torch.compile(lambda x: x.sin() + 1, backend=backend)(x)
    assert type(found) is Labelled
    torch.testing.assert_close(found.as_subclass(torch.Tensor), x.as_subclass(torch.Tensor).sin() + 1)
