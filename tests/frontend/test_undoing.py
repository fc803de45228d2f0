"""A computation that fails after it has changed its inputs: the call is made in plain Python, from the beginning."""

from __future__ import annotations

import pytest
import torch

import thunder


def _caught(x, state, log):
    """Comparing with a complex number has no kernel; shapes alone do not tell."""
    state.add_(1)
    try:
        x = torch.where(x > 1j, x, x * 2)
    except (RuntimeError, NotImplementedError) as error:
        log.append(type(error).__name__)
    state.mul_(2)
    return x + state


def test_what_a_kernel_refuses_is_refused_where_the_program_catches_it():
    compiled = thunder.jit(_caught, executors=["eager"])
    state, expected_state = torch.ones(4), torch.ones(4)
    log, expected_log = [], []
    for _ in range(3):
        found = compiled(torch.ones(4), state, log)
        expected = _caught(torch.ones(4), expected_state, expected_log)
        assert torch.equal(found, expected)
        assert torch.equal(state, expected_state)
    assert log == expected_log and len(log) == 3


def test_random_numbers_are_drawn_once():
    def subject(x, state):
        state.add_(torch.rand(4))
        return torch.where(x > 1j, x, x)

    compiled = thunder.jit(subject, executors=["eager"])
    state = torch.zeros(4)
    torch.manual_seed(0)
    with pytest.raises((RuntimeError, NotImplementedError)):
        compiled(torch.ones(4), state)
    torch.manual_seed(0)
    assert torch.equal(state, torch.rand(4))


def test_random_numbers_of_a_program_that_changes_nothing():
    def subject(x):
        noise = torch.rand(4)
        try:
            x = torch.where(x > 1j, x, x)
        except (RuntimeError, NotImplementedError):
            x = -x
        return x + noise

    compiled = thunder.jit(subject, executors=["eager"])
    torch.manual_seed(0)
    expected = [subject(torch.ones(4)) for _ in range(2)]
    torch.manual_seed(0)
    for value in expected:
        assert torch.equal(compiled(torch.ones(4)), value)


def test_an_error_at_a_later_call_is_raised_as_it_is():
    def subject(index, state):
        state.add_(1)
        return torch.arange(4)[index]

    compiled = thunder.jit(subject, executors=["eager"])
    state = torch.zeros(4)
    compiled(torch.tensor([1]), state)
    with pytest.raises(IndexError):
        compiled(torch.tensor([9]), state)
    assert torch.equal(state, torch.full((4,), 2.0))
