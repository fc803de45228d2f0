"""Gradients of one program never share memory: accumulation and clipping change each of them in place."""

from __future__ import annotations

import torch

from thunder.executors.runtime import Separation


def test_overlapping_gradients_are_copied() -> None:
    separation = Separation()
    whole, other = torch.arange(6.0), torch.ones(2)
    for base in (whole, whole + 1):  # which overlap is known from the first call on
        gradients = [base, base[1:3].view(2, 1), None, other]
        separated = separation.separate("program", gradients)
        assert separated[3] is other and separated[2] is None
        for before, after in zip(gradients, separated):
            assert after is None or torch.equal(before, after)
        separated[0].mul_(2.0)
        assert torch.equal(separated[1], gradients[1] / 2)


def test_parts_of_a_bucket_stay_where_they_are() -> None:
    bucket = torch.arange(6.0)
    parts = [bucket[:2], bucket[2:].view(2, 2)]
    assert Separation().separate("program", parts) is parts
