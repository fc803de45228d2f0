"""`thunder::few_rows_linear` and its gradients against float64, and where programs get it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import thunder
from tests.kernels.comparison import TOLERANCE, assert_as_exact, assert_gradients_as_exact, relative_error, wide
from thunder.kernels import few_rows, kernel_mode
from thunder.kernels.few_rows import few_rows_linear

DTYPES = (torch.float32, torch.bfloat16)


def layers(dtype, sizes, k, *, bias, rows=(2, 5)):
    torch.manual_seed(0)
    values = [torch.randn(*rows, k, dtype=dtype)]
    for n in sizes:
        values.append(torch.randn(n, k, dtype=dtype) / k**0.5)
        values.append(torch.randn(n, dtype=dtype) if bias else None)
    return values


def reference(x, *given):
    return tuple(F.linear(x, weight, bias) for weight, bias in zip(given[::2], given[1::2]))


def present(*arguments):
    return tuple(out for out in few_rows_linear(*arguments) if out.numel())


@pytest.mark.triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes, k, bias", [((5,), 70, True), ((96, 32), 128, False), ((40, 8, 12), 192, True), ((256, 64, 64), 64, False)]
)
def test_values_and_gradients(dtype, sizes, k, bias, monkeypatch):
    monkeypatch.setattr(few_rows, "input_gradient_plan", lambda n, k: few_rows.Plan(32, 64, 1, 2, programs=4.0))
    monkeypatch.setattr(few_rows, "weight_gradients_plan", lambda k: few_rows.Plan(32, 64, 1))
    arguments = layers(dtype, sizes, k, bias=bias)
    assert_as_exact(present, reference, *arguments, dtype=dtype)
    assert_gradients_as_exact(present, reference, *arguments, dtype=dtype)


@pytest.mark.triton
@pytest.mark.parametrize("programs", [0.1, 2.0, 100.0])
def test_the_sum_over_rows_of_the_weights_is_divided(programs):
    x, weight, _, other, _ = layers(torch.float32, (160, 70), 100, bias=False, rows=(16,))
    grads = [torch.randn(16, 200)[:, :160], torch.randn(16, 70)]
    plan = few_rows.Plan(16, 64, 1, 2, programs=programs)
    found = few_rows._launch_input_gradient(grads, [weight, other], plan)
    exact = few_rows.input_gradient_reference(*wide((grads, [weight, other])))
    assert relative_error(found, exact) <= TOLERANCE[torch.float32]
    assert few_rows._share([160, 70], 100, x.device, plan) == {0.1: 240, 2.0: 128, 100.0: 16}[programs]


def test_on_cpu_tensors_without_the_interpreter(monkeypatch):
    monkeypatch.setattr(few_rows, "runs_triton", lambda tensor: False)
    arguments = layers(torch.float32, (6, 3), 20, bias=True)
    assert_as_exact(present, reference, *arguments, dtype=torch.float32)
    assert_gradients_as_exact(present, reference, *arguments, dtype=torch.float32)


class Layers(torch.nn.Module):
    """Four layers of one input, of which one has no bias, and one of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(12, n) for n in (8, 4, 4))
        self.gate = torch.nn.Linear(12, 8, bias=False)
        self.last = torch.nn.Linear(8, 6)

    def forward(self, x):
        joined = torch.cat([self.key(x), self.value(x)], -1)
        return self.last(self.query(x) * joined * self.gate(x))


@pytest.mark.parametrize("executors", [["aten"], None])
def test_layers_of_one_input_are_one_call(executors, monkeypatch):
    monkeypatch.setattr(few_rows, "runs_triton", lambda tensor: False)
    torch.manual_seed(0)
    model, plain = Layers(), Layers()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 12, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    compiled = thunder.jit(model, **({"executors": executors} if executors else {}))
    with kernel_mode("always"):
        found, expected = compiled(x), plain(other)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x.grad, other.grad)
    for mine, theirs in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad)
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    calls = [op for op in traces[-1].ops if op.name.startswith("few_rows_linear")]
    assert [len([value for value in op.args if value is not None]) for op in calls] == [7, 2, 3]
    assert not any(op.name == "linear" for op in traces[-1].ops)


def test_frozen_weights_have_no_gradient(monkeypatch):
    monkeypatch.setattr(few_rows, "runs_triton", lambda tensor: False)
    model = Layers()
    model.key.weight.requires_grad_(False)
    x = torch.randn(3, 12)
    compiled = thunder.jit(model, executors=["aten"])
    with kernel_mode("always"):
        compiled(x).sum().backward()
    assert model.key.weight.grad is None and model.value.weight.grad is not None and model.key.bias.grad is not None


def test_what_stays_a_linear_layer(monkeypatch):
    monkeypatch.setattr(few_rows, "runs_triton", lambda tensor: False)
    weight = torch.randn(8, 12, requires_grad=True)

    def program(x, y):
        first = F.linear(x, weight)
        return first, F.linear(y, weight), F.linear(x, weight * 2.0), F.linear(x, weight.detach())

    compiled = thunder.jit(program, executors=["aten"])
    with kernel_mode("always"):
        results = compiled(torch.randn(2, 12), torch.randn(17, 12))
    sum(result.sum() for result in results).backward()
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    kinds = [op.name for op in traces[-1].ops if "linear" in op.name or op.name.startswith("gemv")]
    assert kinds == ["few_rows_linear.default", "linear", "few_rows_linear.default", "gemv.default"]
