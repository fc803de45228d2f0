"""Gradients of one program share memory only where eager PyTorch's do: users change each of them in place."""

from __future__ import annotations

import torch

import thunder
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


def test_a_gradient_of_two_inputs_is_one_tensor_where_it_is_in_eager() -> None:
    def add(x, y):
        return ((x + y) * 2).sin()

    def twice(x, y):
        return (x * 2).sum() + (y * 2).sum()

    for function, one in ((add, True), (twice, False)):
        for run in (function, thunder.jit(function, executors=["aten"])):
            x, y = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
            first, second = torch.autograd.grad(run(x, y).sum(), [x, y])
            assert (first.data_ptr() == second.data_ptr()) is one
            run(x, y).sum().backward()
            assert x.grad.data_ptr() != y.grad.data_ptr()
            x.grad.zero_()
            assert torch.equal(y.grad, second) and y.grad.abs().sum() > 0


def test_gradients_that_are_one_by_chance_are_copied() -> None:
    separation = Separation({1: 0})
    whole = torch.arange(4.0)
    same = separation.separate("program", [whole, whole.view(4)])
    assert same[0] is same[1] is whole
    other = separation.separate("program", [whole, torch.ones(4)])  # not in the same memory this time
    assert torch.equal(other[1], torch.ones(4))
