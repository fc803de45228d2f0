"""Programs that assert something of values; pytest rewrites `assert` in test files, and leaves this one alone."""

from __future__ import annotations

import torch


def with_message(x):
    assert (x > 0).all(), f"{x.shape} is not all positive"
    return x + 1


def negated(x):
    assert not (x < 0).any()
    return x + 1


def several(x):
    assert x.isfinite().all() and (x > 0).sum() and x.dim() == 1
    return x + 1


def within_a_loop(x):
    for row in x:
        assert row > 0
        x = x + row
    return x


def validated(x):
    return torch.distributions.Normal(x, x).log_prob(x * 2)
