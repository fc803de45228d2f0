"""Hooks on autograd that a program sets, and what is refused because a program could not keep its meaning."""

import pytest
import torch
import torch.nn as nn

import thunder
from thunder.errors import UnsupportedError


def gradients(function, x, parameters):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).square().sum(), [x, *parameters])


@pytest.mark.parametrize(
    "register",
    [
        lambda module: module.register_full_backward_hook(lambda m, grad_in, grad_out: (grad_in[0] * 3,)),
        lambda module: module.register_full_backward_pre_hook(lambda m, grad_out: (grad_out[0] * 5,)),
        lambda module: module.register_forward_hook(lambda m, args, result: result * 2),
        lambda module: module.register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
    ],
    ids=["backward", "backward_pre", "forward", "forward_pre"],
)
def test_module_hooks(executors, register):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    compiled = thunder.jit(model, executors=executors)
    x = torch.randn(2, 4)
    parameters = list(model.parameters())
    for _ in range(2):  # without the hook, then with it
        torch.testing.assert_close(gradients(compiled, x, parameters), gradients(model, x, parameters))
        handle = register(model[2])
    torch.testing.assert_close(gradients(compiled, x, parameters), gradients(model, x, parameters))
    handle.remove()
    assert thunder.cache_misses(compiled) >= 2


def test_hook_on_an_intermediate_tensor(executors):
    def program(x):
        y = x * 2
        y.register_hook(lambda gradient: gradient * 10)
        return y.sin()

    compiled = thunder.jit(program, executors=executors)
    x = torch.randn(3)
    torch.testing.assert_close(gradients(compiled, x, []), gradients(program, x, []))


def test_scripted_functions_are_acquired_as_python(executors):
    weight = torch.randn(3, requires_grad=True)
    compiled = thunder.jit(lambda x: scripted(x) * scripted(weight), executors=executors)
    x = torch.randn(3)
    expected = torch.autograd.grad((x.sin() * 2 * weight.sin() * 2).sum(), weight)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), weight), expected)


@torch.jit.script
def scripted(x):
    return x.sin() * 2


def node_hook(x):
    y = x * 2
    y.grad_fn.register_hook(lambda grad_in, grad_out: grad_in)
    return y


def saved_tensors_hooks(x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return x * x


def gradient_of_own_backward(x):
    y = x.detach().requires_grad_()
    (y * y).sum().backward()
    return y.grad * x


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3)), "TorchScript"),
        (torch.jit.script(nn.Linear(3, 3)), "TorchScript"),
        (node_hook, "autograd node"),
        (saved_tensors_hooks, "saved tensors"),
        (gradient_of_own_backward, "backward in this program"),
    ],
)
def test_refused_before_anything_runs(executors, program, message):
    compiled = thunder.jit(lambda x: program(x), executors=executors)
    with pytest.raises(UnsupportedError, match=message):
        compiled(torch.ones(1, 3, requires_grad=True))
    assert thunder.compile_stats(compiled).plain_calls == 0
