"""`torch.cond` within compiled functions: the running program chooses, and what it cannot keep right is refused."""

import pytest
import torch
from torch._higher_order_ops import while_loop

import thunder
from thunder.errors import UnsupportedError

EXECUTORS = pytest.mark.parametrize("executors", [["eager"], ["aten"], None], ids=["eager", "aten", "default"])
layer = torch.nn.Linear(3, 3)
scale = torch.tensor(2.0)


def reads_a_module_and_a_global(x):
    return torch.cond(x.sum() > 0, lambda x: layer(x).sin() * scale, lambda x: x.cos() + 1, (x,)) * 2


def gives_a_dict(x):
    return torch.cond((x > 0).all(), lambda: {"a": x * 2, "b": x.sum()}, lambda: {"a": x - 1, "b": x.mean()})["a"]


def within_each_other(x):
    def inner(x):
        return torch.cond(x[0].sum() > 4, lambda x: x * 2, lambda x: x * 3, (x,))

    return torch.cond(x.sum() > 0, inner, lambda x: x + 1, (x,))


def decided_while_it_is_acquired(x):
    return torch.cond(x.shape[0] > 2, lambda x: x.sum(), lambda x: x + 1, (x,))


PLAIN = {  # what the programs mean: torch.cond itself would be compiled by torch.compile here
    reads_a_module_and_a_global: lambda x: (layer(x).sin() * scale if x.sum() > 0 else x.cos() + 1) * 2,
    gives_a_dict: lambda x: x * 2 if (x > 0).all() else x - 1,
    within_each_other: lambda x: (x * 2 if x[0].sum() > 4 else x * 3) if x.sum() > 0 else x + 1,
    decided_while_it_is_acquired: lambda x: x.sum(),
}


@EXECUTORS
@pytest.mark.parametrize("program", PLAIN, ids=lambda program: program.__name__)
def test_both_branches(program, executors):
    compiled = thunder.jit(program, executors=executors)
    for value in (torch.ones(3, 3), -torch.ones(3, 3), torch.full((3, 3), 2.0)):
        ours, theirs = (value.clone().requires_grad_() for _ in range(2))
        found, expected = compiled(ours), PLAIN[program](theirs)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(y.sum(), x) for y, x in ((found, ours), (expected, theirs))]
        torch.testing.assert_close(*gradients)
    assert thunder.cache_misses(compiled) == 1 and thunder.compile_stats(compiled).plain_calls == 0


@pytest.mark.parametrize(
    ("true_branch", "message"),
    [
        (lambda x: x, "gives a tensor from outside"),
        (lambda x: x[0:3], "gives a tensor from outside"),
        (lambda x: x.add_(1) * 1, "changes a tensor from outside"),
        (lambda x: x.sum(), "different kinds of results"),
        (lambda x: x.double(), "different kinds of results"),
    ],
)
def test_what_is_refused(true_branch, message):
    compiled = thunder.jit(lambda x: torch.cond(x.sum() > 0, true_branch, lambda x: x + 1, (x,)))
    x = torch.ones(3)
    with pytest.raises(UnsupportedError, match=message):
        compiled(x)
    torch.testing.assert_close(x, torch.ones(3))


def test_loops_are_refused():
    def program(x):
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (torch.tensor(0), x))[1]

    with pytest.raises(UnsupportedError, match="while_loop is captured by torch.compile alone"):
        thunder.jit(program)(torch.ones(3))
