"""CUDA graphs, with graphs that replay on the CPU: copies, aliasing, privacy of results, new captures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import thunder
from tests.executors.recorded_graphs import RecordedGraphs
from thunder.errors import OptionError
from thunder.executors.cuda_graphs import GraphedFunction, GraphPolicy
from thunder.executors.cuda_graphs.graphed import Pools


def compiled(function, *, training=False, **options):
    backend = RecordedGraphs()
    policy = GraphPolicy(training=training, verbose=True, backend=backend)
    options.setdefault("executors", ["eager"])
    return thunder.jit(function, cuda_graphs=policy, **options), backend


def replays(backend):
    return sum(graph.replays for graph in backend.graphs)


def test_calls_that_repeat_are_replayed():
    weight = torch.randn(4, 4)
    run, backend = compiled(lambda x: torch.relu(x @ weight) + 1)
    for _ in range(6):
        x = torch.randn(2, 4)
        torch.testing.assert_close(run(x), torch.relu(x @ weight) + 1)
    assert replays(backend) >= 3


def test_lowered_programs_are_captured():
    weight = torch.randn(4, 4)
    run, backend = compiled(lambda x: torch.relu(x @ weight) + 1, executors=["aten"])
    for _ in range(5):
        x = torch.randn(2, 4)
        torch.testing.assert_close(run(x), torch.relu(x @ weight) + 1)
    assert replays(backend) >= 2, thunder.compile_stats(run).notes


def test_results_are_not_overwritten():
    run, backend = compiled(lambda x: (x * 2, x + 1))
    inputs = [torch.randn(3) for _ in range(9)]
    results = [run(x) for x in inputs]
    for x, (doubled, increased) in zip(inputs, results):
        torch.testing.assert_close(doubled, x * 2)
        torch.testing.assert_close(increased, x + 1)
    assert replays(backend) >= 5


def test_a_view_of_a_result_keeps_it():
    run, _ = compiled(lambda x: x.repeat(2))
    inputs = [torch.randn(3) for _ in range(7)]
    parts = [run(x)[1:4] for x in inputs]
    for x, part in zip(inputs, parts):
        torch.testing.assert_close(part, x.repeat(2)[1:4])


def test_changing_a_result_does_not_reach_later_calls():
    run, _ = compiled(lambda x: x * 2)
    x = torch.ones(3)
    for _ in range(6):
        result = run(x)
        torch.testing.assert_close(result, torch.full((3,), 2.0))
        result.zero_()


def test_the_usual_loop_needs_two_recordings():
    run, backend = compiled(lambda x: x * 2)
    for _ in range(10):
        result = run(torch.ones(3))
    torch.testing.assert_close(result, torch.full((3,), 2.0))
    assert len(backend.graphs) <= 4


@pytest.mark.parametrize("executors", [["eager"], ["aten"]])
def test_caches_stay_in_place(executors):
    cache, position = torch.zeros(8), torch.zeros(1, dtype=torch.long)

    def step(x):
        cache.index_copy_(0, position, x)
        position.add_(1)
        return cache.sum()

    run, backend = compiled(step, executors=executors)
    address = cache.data_ptr()
    for number in range(8):
        total = run(torch.tensor([float(number)]))
        assert total.item() == sum(range(number + 1))
    assert cache.tolist() == list(range(8)) and cache.data_ptr() == address
    assert replays(backend) >= 4


@pytest.mark.parametrize("executors", [["eager"], ["aten"]])
def test_changed_arguments(executors):
    def increase(x):
        x.add_(1)
        return x * 2

    run, backend = compiled(increase, executors=executors)
    for _ in range(8):
        x = torch.zeros(3)
        version = x._version
        torch.testing.assert_close(run(x), torch.full((3,), 2.0))
        assert x.tolist() == [1, 1, 1] and x._version > version


def test_returned_inputs_are_the_callers():
    def change(x, y):
        x.add_(y)
        return x, y.view(2, 2), y

    run, backend = compiled(change)
    x = torch.zeros(4)
    for number in range(6):
        y = torch.ones(4)
        first, second, third = run(x, y)
        assert first is x and third is y
        assert second.data_ptr() == y.data_ptr()
        assert x.tolist() == [number + 1] * 4
    assert replays(backend) >= 2


def test_results_that_share_memory():
    def pair(x):
        y = x * 2
        return y[:2], y[1:]

    run, backend = compiled(pair)
    for _ in range(6):
        x = torch.randn(4)
        first, second = run(x)
        torch.testing.assert_close(first, x[:2] * 2)
        second[0] = 5.0
        assert first[1] == 5.0
    assert replays(backend) >= 2


def test_a_parameter_that_moves():
    layer = torch.nn.Linear(600, 600)
    backend = RecordedGraphs()
    model = thunder.jit(
        layer, executors=["eager"], cuda_graphs=GraphPolicy(training=False, verbose=True, backend=backend)
    )
    x = torch.randn(2, 600)
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(model(x), layer(x))
        before = len(backend.graphs)
        layer.weight.data = torch.randn(600, 600)
        for _ in range(6):
            torch.testing.assert_close(model(x), layer(x))
    assert len(backend.graphs) > before


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.factor = torch.nn.Linear(4, 4), 2.0

    def forward(self, x):
        return torch.tanh(self.linear(x)) * self.factor


def test_graphs_that_run_ahead_of_the_guards():
    network, backend = Scaled(), RecordedGraphs()
    policy = GraphPolicy(training=False, verbose=True, backend=backend)
    model = thunder.jit(network, executors=["aten"], cuda_graphs=policy)
    with torch.no_grad():
        for factor in (2.0, 2.0, 2.0, 3.0, 2.0, 3.0, 3.0, 3.0, 2.0):
            network.factor = factor
            for x in (torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)):
                torch.testing.assert_close(model(x), network(x))
        with pytest.raises((RuntimeError, TypeError)):
            model(torch.randn(2, 5))
    assert thunder.cache_misses(model) <= 4 and replays(backend) > 20
    assert model._thunder.last.computation.runs_ahead is not None


class Attending(Scaled):
    """With attention, which only draws random numbers when it drops weights."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dropout = dropout

    def forward(self, x):
        x = super().forward(x).view(1, 1, -1, 4)
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout)


def test_training_steps_that_run_ahead_of_the_guards():
    network, backend = Attending(), RecordedGraphs()
    policy = GraphPolicy(training=True, verbose=True, backend=backend)
    model = thunder.jit(network, executors=["aten"], cuda_graphs=policy)

    def step(module, x):
        module.zero_grad()
        loss = module(x).square().sum()
        loss.backward()
        return loss.detach(), *(parameter.grad.clone() for parameter in network.parameters())

    for factor in (2.0, 2.0, 3.0, 2.0, 3.0, 3.0, 2.0):
        network.factor = factor
        for x in (torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)):
            torch.testing.assert_close(step(model, x), step(network, x))
    assert thunder.cache_misses(model) <= 4 and replays(backend) > 20
    assert model._thunder.last.computation.runs_ahead is not None
    dropping = thunder.jit(Attending(0.5), executors=["aten"], cuda_graphs=policy)
    dropping(torch.randn(2, 4))
    assert dropping._thunder.last.computation.runs_ahead is None


def test_random_numbers_go_on():
    run, backend = compiled(lambda x: F.dropout(x, 0.5))
    x = torch.ones(64)
    torch.manual_seed(3)
    expected = [F.dropout(x, 0.5) for _ in range(6)]
    run(x)
    torch.manual_seed(3)
    for wanted in expected:
        torch.testing.assert_close(run(x), wanted)
    assert replays(backend) >= 4


def test_sizes_that_vary():
    run, backend = compiled(lambda x: torch.relu(x) * 2, cache="symbolic values")
    for size in (3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4, 5):
        x = torch.randn(size)
        torch.testing.assert_close(run(x), torch.relu(x) * 2)
    assert replays(backend) >= 3


def test_sizes_that_vary_at_one_place():
    run, backend = compiled(lambda x: torch.relu(x) * 2, cache="symbolic values")
    memory = torch.randn(8)
    for size in (3, 4, 5, 3, 4, 5, 3, 4, 5, 5, 5, 4, 4):
        torch.testing.assert_close(run(memory[:size]), torch.relu(memory[:size]) * 2)
    assert replays(backend) >= 3


def test_expanded_inputs():
    run, backend = compiled(lambda x: x + 1)
    for number in range(6):
        x = torch.full((1, 3), float(number)).expand(4, 3)
        torch.testing.assert_close(run(x), x + 1)
    assert replays(backend) >= 3


def test_recordings_of_one_pool_do_not_spoil_each_other():
    backend = RecordedGraphs()
    policy = GraphPolicy(training=False, verbose=True, backend=backend)
    first = thunder.jit(lambda x: x.repeat(8, 1).mean(0) * 2, executors=["eager"], cuda_graphs=policy)
    second = thunder.jit(lambda x: x.repeat(8, 1).mean(0) * 3, executors=["eager"], cuda_graphs=policy)
    x = torch.ones(3)
    for _ in range(5):
        a, b = first(x), second(x)
        c = first(x)
        assert (a.tolist(), b.tolist(), c.tolist()) == ([2] * 3, [3] * 3, [2] * 3)
    assert replays(backend) >= 3
    assert backend.pools == 0


@pytest.mark.parametrize("executors", [["eager"], ["aten"]])
def test_large_results_stay_in_pools_of_their_own(executors):
    weight = torch.randn(4, 64)
    run, backend = compiled(lambda x: torch.tanh(x).mm(weight), executors=executors)
    inputs = [torch.randn(2, 4) for _ in range(9)]
    results = [run(x) for x in inputs]
    for x, result in zip(inputs, results):
        torch.testing.assert_close(result, torch.tanh(x).mm(weight))
    assert replays(backend) >= 3
    assert backend.pools >= 2


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def gradients(model, x, steps, accumulate=False):
    found = []
    for _ in range(steps):
        if not accumulate:
            model.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    return found


@pytest.mark.parametrize("accumulate", [False, True])
def test_training_steps(accumulate):
    torch.manual_seed(0)
    network, x = Network(), torch.randn(5, 8)
    expected = gradients(network, x, 8, accumulate)
    network.zero_grad()
    backend = RecordedGraphs()
    model = thunder.jit(
        network, executors=["aten"], cuda_graphs=GraphPolicy(training=True, verbose=True, backend=backend)
    )
    found = gradients(model, x, 8, accumulate)
    for step, (ours, wanted) in enumerate(zip(found, expected)):
        torch.testing.assert_close(ours, wanted, msg=lambda text, step=step: f"step {step}: {text}")
    assert replays(backend) >= 6, thunder.compile_stats(model).notes


def test_two_forward_calls_before_their_backwards():
    torch.manual_seed(0)
    network = Network()
    inputs = [torch.randn(5, 8) for _ in range(4)]
    backend = RecordedGraphs()
    model = thunder.jit(
        network, executors=["aten"], cuda_graphs=GraphPolicy(training=True, verbose=True, backend=backend)
    )

    def step(module):
        module.zero_grad()
        losses = [module(x).square().mean() for x in inputs]
        for loss in reversed(losses):
            loss.backward()
        return [parameter.grad.clone() for parameter in module.parameters()]

    expected = step(network)
    for _ in range(5):
        torch.testing.assert_close(step(model), expected)


def test_reasons_are_noted():
    run, backend = compiled(lambda x: x + 1, training=True)
    run(torch.ones(2, requires_grad=True))
    assert any("autograd" in note for note in thunder.compile_stats(run).notes)
    model = thunder.compile(torch.nn.Linear(2, 2), plugins="reduce-overhead")
    with torch.no_grad():
        model(torch.ones(1, 2))
    assert any("CUDA graphs" in note and "cpu" in note for note in thunder.compile_stats(model).notes)


def test_a_capture_that_fails_is_noted_and_answered():
    run, backend = compiled(lambda x: x + 1)

    def refuse(function, device, pool):
        raise RuntimeError("operation not permitted when stream is capturing")

    backend.capture = refuse
    for number in range(4):
        torch.testing.assert_close(run(torch.full((2,), float(number))), torch.full((2,), number + 1.0))
    assert any("not permitted" in note for note in thunder.compile_stats(run).notes)


def test_unknown_modes():
    with pytest.raises(OptionError, match="inference"):
        thunder.jit(lambda x: x, cuda_graphs="sometimes")


def test_what_a_replay_hands_out_is_read_where_it_is():
    """The second of two functions waits until the results of the first have settled, and copies none of them."""
    backend, notes = RecordedGraphs(), []

    def graphed(function, **options):
        pools = Pools(backend, torch.device("cpu"), shared=False)
        return GraphedFunction(
            function, others=(), changed=frozenset(), pools=pools, report=notes.append, **options
        )

    first = graphed(lambda x: (x * 2, x + 1), tensors=[0])
    second = graphed(lambda a, b, g: (a * g + b,), tensors=[0, 1, 2], after=first)
    for _ in range(4):  # no more: these graphs, unlike CUDA's, keep their inputs alive, and those occupy the first
        x, g = torch.randn(3), torch.randn(3)
        (result,) = second(*first(x), g)
        torch.testing.assert_close(result, x * 2 * g + (x + 1))
        del result
    assert second.last is not None and second.last.plan.copied == (2,)
    assert (first.captures, second.captures, notes) == (1, 1, [])


def test_training_goes_on_when_a_guard_fails():
    """A replay that was started before the guards were looked at is dropped with what autograd noted of it."""
    torch.manual_seed(0)
    network, x = Network(), torch.randn(5, 8)
    scaled = lambda module: lambda: (module(x) * scale["of"]).square().mean()  # noqa: E731
    scale = {"of": 2.0}
    backend = RecordedGraphs()
    policy = GraphPolicy(training=True, verbose=True, backend=backend)
    plain, run = scaled(network), thunder.jit(scaled(network), executors=["aten"], cuda_graphs=policy)
    for step in range(12):
        scale["of"] = 3.0 if step == 8 else 2.0
        found = []
        for function in (plain, run):
            network.zero_grad()
            function().backward()
            found.append([parameter.grad.clone() for parameter in network.parameters()])
        torch.testing.assert_close(found[0], found[1], msg=lambda text, step=step: f"step {step}: {text}")
    assert replays(backend) >= 6, thunder.compile_stats(run).notes
