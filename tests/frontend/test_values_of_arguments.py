"""Values of small integer arguments, and of the model's own small buffers, are constants that guards check."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thunder
from thunder.errors import DataDependentError


def jit(function):
    return thunder.jit(function, executors=["eager"])


def changed_in_place(x, grid):
    sizes = grid * 2
    view = sizes[0]
    view[1] += 1
    sizes[grid > 2] = 5
    return x.reshape(sizes[0, 0].item(), -1) * sizes.sum().item() + view[1].item()


def changed_argument(x, grid):
    grid[0, 0] += 1
    return x[: int(grid[0, 0])] if grid[0, 0] > 1 else x


def by_float_arithmetic(x, grid):
    mask = torch.zeros(2, 3).masked_fill((grid > 2).expand(2, 3), float("-inf"))
    return x[: int((mask < 0).sum())]


def expanded(x, grid):
    wide = x[:9].reshape(3, 3).sin()
    mask = (grid > 1).expand_as(wide)
    return wide[mask] if wide[mask].numel() > 3 else -wide


@pytest.mark.parametrize("program", [expanded, changed_in_place, changed_argument, by_float_arithmetic])
def test_values_of_an_argument(program):
    compiled = jit(program)
    x = torch.arange(12.0)
    for values in ([[1, 2, 9]], [[2, 3, 7]], [[1, 2, 9]]):
        expected, actual = torch.tensor(values), torch.tensor(values)
        torch.testing.assert_close(compiled(x, actual), program(x, expected))
        assert torch.equal(actual, expected)
    statistics = thunder.compile_stats(compiled)
    assert (statistics.cache_misses, statistics.plain_calls) == (2, 0)


def test_values_that_vary_are_unknown_numbers():
    def program(cache, position):
        return cache[: position.max().item() + 1].sum() + position

    compiled, cache = jit(program), torch.randn(64)
    for number in range(40):
        position = torch.tensor([number])
        torch.testing.assert_close(compiled(cache, position), program(cache, position))
    statistics = thunder.compile_stats(compiled)
    assert (statistics.cache_misses, statistics.plain_calls) == (2, 0)


def test_decisions_on_values_that_vary_are_guarded_as_decisions():
    def program(x, position, mask):
        last = position.max().item()
        if last < 16:
            x = x[: last + 1]
        return x.sum() + last * 2 if mask.all() else x.sum() * 2

    compiled, x = jit(program), torch.randn(64)
    for number in range(2, 40):
        position, mask = torch.tensor([number]), torch.ones(8, dtype=torch.bool)
        mask[number % 8] = number % 4 > 0
        torch.testing.assert_close(compiled(x, position, mask), program(x, position, mask))
    statistics = thunder.compile_stats(compiled)
    assert statistics.plain_calls == 0 and statistics.cache_misses <= 6
    assert "a number made from position" in thunder.last_prologue(compiled)


class Annealed(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("probabilities", torch.tensor([1.0, 0.0]))

    def forward(self, x):
        for index in range(2):
            if self.probabilities[index] > 0:
                x = x + index + 1
        return x


def test_settings_that_a_model_keeps_in_a_buffer():
    model = Annealed()
    compiled, x = jit(model), torch.zeros(2)
    assert torch.equal(compiled(x), torch.full((2,), 1.0))
    model.probabilities.fill_(1.0)
    assert torch.equal(compiled(x), torch.full((2,), 3.0))
    model.probabilities.fill_(0.0)
    assert torch.equal(compiled(x), x)
    assert thunder.compile_stats(compiled).plain_calls == 0


@pytest.mark.parametrize(
    "program",
    [
        lambda x, y: x if y.sum() > 0 else -x,  # a floating-point argument
        lambda x, y: x if (y * 0 + torch.rand(3)).long().sum() > 0 else -x,
        lambda x, y: x if y.long().clamp_(max=3).add_(x.long()).sum() > 0 else -x,  # changed by what is unknown
    ],
)
def test_other_values_are_not_guarded(program):
    with pytest.raises(DataDependentError):
        jit(program)(torch.ones(3), torch.ones(3))


def test_a_value_that_something_unknown_has_changed_since():
    def program(x, index):
        twice = index * 2
        before = twice[0].item()
        twice[1:] += x.long()[1:]
        return x * before if twice[0] > 1 else -x

    with pytest.raises(DataDependentError):
        jit(program)(torch.ones(3), torch.ones(3, dtype=torch.long))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.poisson(torch.full((1,), 3.0)),
        lambda: torch.zeros(1, dtype=torch.long).geometric_(0.5),
        lambda: torch.zeros(1).cauchy_(),
        lambda: torch.binomial(torch.full((1,), 5.0), torch.full((1,), 0.5)),
        lambda: torch.get_rng_state()[24:64].sum(),
        lambda: torch.get_rng_state()[24:64].long(),
    ],
)
def test_random_values_are_no_constants(draw):
    def program(x):
        return x if draw().max() > 2 else -x

    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(DataDependentError):
        jit(program)(torch.ones(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_custom_operators_are_not_called_to_find_a_value():
    calls = []

    @torch.library.custom_op("thunder_tests::counted", mutates_args=())
    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x + len(calls)

    counted.register_fake(torch.empty_like)
    with pytest.raises(DataDependentError):
        jit(lambda x, n: x[: int(counted(n))] if counted(n) > 2 else x)(torch.ones(9), torch.tensor([1]))
    assert calls == []
