"""What a program asserts of values: a check when it runs, and plain Python's error where it fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thunder
from tests.frontend.asserting_programs import negated, several, validated, with_message, within_a_loop
from thunder.errors import DataDependentError


@pytest.fixture(autouse=True)
def validation():
    """Dynamo switches the validation of distributions off for the whole process, when it is first used."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize("program", [with_message, negated, several, within_a_loop, validated])
def test_checked_when_the_program_runs(executors, program):
    compiled = thunder.jit(program, executors=executors)
    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -2.0])
    for _ in range(2):
        torch.testing.assert_close(compiled(good), program(good))
        with pytest.raises((AssertionError, ValueError)) as expected:
            program(bad)
        with pytest.raises(type(expected.value)) as raised:
            compiled(bad)
        assert str(raised.value) == str(expected.value)


def test_other_decisions_on_values_are_refused(executors):
    def program(x):
        if (x > 0).all():
            return x
        raise ValueError("negative")

    with pytest.raises(DataDependentError):
        thunder.jit(program, executors=executors)(torch.ones(2))


class AutoEncoder(nn.Module):
    """A variational one, whose distributions validate their arguments."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x):
        mean, log_scale = self.encode(x).chunk(2, -1)
        posterior = torch.distributions.Normal(mean, log_scale.exp())
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        seen = torch.distributions.Bernoulli(logits=self.decode(posterior.rsample()))
        likelihood = torch.distributions.Independent(seen, 1).log_prob((x > 0).float())
        return torch.distributions.kl_divergence(posterior, prior).sum(-1) - likelihood


def test_distributions_that_validate(executors):
    torch.manual_seed(0)
    model, x = AutoEncoder(), torch.randn(3, 4)
    compiled, results = thunder.jit(model, executors=executors), []
    for call in (model, compiled):
        torch.manual_seed(1)
        loss = call(x)
        results.append((loss, torch.autograd.grad(loss.sum(), [*model.parameters()])))
    torch.testing.assert_close(*results)
    assert not thunder.compile_stats(compiled).plain_calls
