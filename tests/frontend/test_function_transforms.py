"""`torch.func` inside of a compiled function: acquired with it, state that the inner functions read is guarded."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves

import thunder
from thunder.errors import DataDependentError

SCALE = 2.0


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def scaled_sine(v):
    return (v.sin() * SCALE).sum()


model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
parameters = {name: parameter.detach() * 2 for name, parameter in model.named_parameters()}


def loss(parameters, x):
    return functional_call(model, parameters, (x,)).pow(2).sum()


def around_an_intermediate(x):
    y = x.cos()
    return grad(lambda v: (v * y).sin().sum())(x) + y


def pulled_back(x):
    y, pull = vjp(torch.sin, x)
    return y, pull(torch.ones_like(y))


PROGRAMS = {
    "grad": lambda x: grad(lambda v: (v.sin() ** 2).sum())(x),
    "grad of grad": lambda x: grad(lambda u: grad(lambda v: (v**3).sum())(u).sum())(x),
    "grad_and_value, argnums, has_aux": lambda x: grad_and_value(
        lambda a, b: ((a * b).sin().sum(), a + b), argnums=(0, 1), has_aux=True
    )(x, x + 1),
    "an intermediate": around_an_intermediate,
    "vmap": lambda x: vmap(lambda v: v.sum() * v)(x),
    "vmap, dims": lambda x: vmap(torch.dot, in_dims=(1, 0), out_dims=0)(x, x.T.contiguous()),
    "vmap, nested": lambda x: vmap(vmap(lambda a, b: a * b + torch.ones(()), (None, 0)), (0, None))(x, x),
    "vmap, chunks": lambda x: vmap(lambda v: v.cumsum(0), chunk_size=2)(x),
    "vmap of grad": lambda x: vmap(grad(lambda v: (v.sin() ** 2).sum()))(x),
    "jacrev": lambda x: jacrev(lambda v: v.sin() * v.sum())(x[0]),
    "jacfwd": lambda x: jacfwd(lambda v: v.sin() * v.sum())(x[0]),
    "hessian": lambda x: hessian(lambda v: (v.sin() ** 3).sum())(x[0]),
    "jvp": lambda x: jvp(torch.sin, (x,), (torch.ones_like(x),)),
    "vjp": pulled_back,
    "functional_call": lambda x: functional_call(model, parameters, (x,)),
    "grad of functional_call": lambda x: grad(loss)(parameters, x),
    "gradients of each sample": lambda x: vmap(grad(loss), in_dims=(None, 0))(parameters, x),
}


@pytest.mark.parametrize("executors", [["eager"], None], ids=["eager", "default"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_values(name, executors):
    program, compiled = PROGRAMS[name], thunder.jit(PROGRAMS[name], executors=executors)
    for seed in range(2):
        torch.manual_seed(seed)
        x = torch.randn(3, 4)
        same(compiled(x), program(x))
    statistics = thunder.compile_stats(compiled)
    assert statistics.plain_calls == 0 and statistics.cache_misses == 1


@pytest.mark.parametrize("name", ["grad", "an intermediate", "vmap", "vmap of grad", "jacrev", "vjp"])
def test_gradients_through_a_transform(name):
    program, x = PROGRAMS[name], torch.randn(3, 4)
    found = []
    for function in (program, thunder.jit(program, executors=["eager"])):
        leaf = x.clone().requires_grad_()
        result = function(leaf)
        sum(part.pow(2).sum() for part in tree_leaves(result)).backward()
        found.append(leaf.grad)
    same(*found)


def test_state_that_the_inner_function_reads_is_guarded(monkeypatch):
    box = [2.0]
    compiled = thunder.jit(
        lambda x: grad(scaled_sine)(x) + vmap(lambda v: v * box[0])(x), executors=["eager"], recompile_limit=4
    )
    x = torch.randn(3, 4)
    expected = lambda: grad(scaled_sine)(x) + vmap(lambda v: v * box[0])(x)  # noqa: E731
    same(compiled(x), expected())
    box[0] = 5.0
    same(compiled(x), expected())
    monkeypatch.setitem(globals(), "SCALE", 7.0)
    same(compiled(x), expected())
    assert thunder.cache_misses(compiled) == 3 and thunder.compile_stats(compiled).plain_calls == 0


def test_tensors_that_the_inner_function_closes_over_are_inputs():
    weight = nn.Parameter(torch.randn(4))
    compiled = thunder.jit(lambda x: vmap(lambda v: v * weight)(x), executors=["eager"])
    x = torch.randn(3, 4)
    compiled(x).sum().backward()
    same(weight.grad, x.sum(0))
    with torch.no_grad():
        weight.mul_(2)
    same(compiled(x), x * weight)


def test_values_within_a_transform_are_a_break():
    with pytest.raises(DataDependentError, match="test_function_transforms.py"):
        thunder.jit(lambda x: grad(lambda v: v.sum() if v[0] > 0 else v[0])(x), executors=["eager"])(torch.ones(3))
    same(grad(lambda v: (v * v).sum())(torch.ones(3)), 2 * torch.ones(3))  # all levels have been left


def test_levels_are_left_when_the_computation_raises():
    compiled = thunder.jit(lambda x, i: vmap(lambda v: v * x.index_select(0, i)[0])(x), executors=["eager"])
    x = torch.randn(3, 4)
    same(compiled(x, torch.tensor([1])), x * x[1])
    with pytest.raises(IndexError):
        compiled(x, torch.tensor([9]))
    same(vmap(torch.sin)(x), x.sin())
    same(compiled(x, torch.tensor([2])), x * x[2])
