"""`thunder::cross_entropy` and `thunder::linear_cross_entropy` against float64, with gradients."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import TOLERANCE, assert_as_exact, relative_error
from thunder.kernels import cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.triton

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(params=[True, False], ids=["interpreted", "plain"])
def kernels(request, monkeypatch):
    """Both forms of the kernels on CPU tensors."""
    if not request.param:
        monkeypatch.setattr(cross_entropy, "runs_triton", lambda tensor: False)


def target_of(rows, size):
    target = torch.randint(0, size, (rows,))
    target[rows // 2] = -100
    return target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy(kernels, dtype, reduction):
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(6, 300, dtype=dtype), target_of(6, 300)
    options = (target, -100, reduction)
    assert_as_exact(cross_entropy.cross_entropy, cross_entropy.cross_entropy_reference, logits, *options, dtype=dtype)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    (found,) = torch.autograd.grad(1.5 * cross_entropy.cross_entropy(leaf, *options)[0], leaf)
    (expected,) = torch.autograd.grad(1.5 * cross_entropy.cross_entropy_reference(exact, *options)[0], exact)
    assert relative_error(found, expected) <= TOLERANCE[dtype]
    assert not found[3].any()


def test_rows_of_very_different_size(kernels):
    logits = torch.tensor([[1e4, -1e4, 0.0, 5.0], [-1e4, -1e4, -1e4, -1e4]])
    loss, lse = cross_entropy.cross_entropy(logits, torch.tensor([0, 1]), -100, "sum")
    torch.testing.assert_close(lse, logits.logsumexp(-1))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]), reduction="sum"))


def losses(form, hidden, weight, target, reduction, tangent):
    """The loss, and with logits also a function of these."""
    if form == "loss":
        return 1.5 * linear_cross_entropy.linear_cross_entropy(hidden, weight, target, -100, reduction)[0]
    if form == "wide sum":
        return 1.5 * linear_cross_entropy.linear_cross_entropy(hidden, weight, target, -100, reduction, True, True)[0]
    logits, loss, _ = linear_cross_entropy.linear_cross_entropy_with_logits(hidden, weight, target, -100, reduction)
    return 1.5 * loss + (0 if form == "logits" else (logits * tangent).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("form", ["loss", "wide sum", "logits", "logits in use"])
def test_linear_cross_entropy_in_chunks(monkeypatch, kernels, dtype, reduction, form):
    torch.manual_seed(0)
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_BYTES", 2 * 300 * dtype.itemsize)
    hidden, weight = torch.randn(6, 32, dtype=dtype), torch.randn(300, 32, dtype=dtype) / 4
    target, tangent = target_of(6, 300), torch.randn(6, 300)
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    exact = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    loss = losses(form, *leaves, target, reduction, tangent)
    logits, value = linear_cross_entropy.linear_cross_entropy_reference(*exact, target, -100, reduction)
    expected = 1.5 * value + ((logits * tangent).sum() if form == "logits in use" else 0)
    if form != "logits in use":  # a sum of many terms that cancel
        assert relative_error(loss.detach(), expected.detach()) <= TOLERANCE[dtype]
    for mine, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, exact)):
        assert relative_error(mine, theirs) <= 2 * TOLERANCE[dtype]


def test_without_gradients_there_are_none():
    hidden, weight, target = torch.randn(6, 32), torch.randn(300, 32), target_of(6, 300)
    loss, *gradients = linear_cross_entropy.linear_cross_entropy(hidden, weight, target, -100, "mean", False)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(hidden @ weight.T, target))
    assert [gradient.numel() for gradient in gradients] == [0, 0]


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 4096, 5000])
def test_chunks_cover_the_rows(rows):
    found = list(linear_cross_entropy._chunks(rows, 151936, 2))
    assert [row for chunk in found for row in range(chunk.start, chunk.stop)] == list(range(rows))
    assert all((c.stop - c.start) * 151936 * 2 <= 1.1 * linear_cross_entropy.CHUNK_BYTES for c in found)
