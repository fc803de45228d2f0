"""`thunder::embedding` and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.kernels.comparison import assert_as_exact
from thunder.kernels import embedding as module

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [[[0, 3, 3, 7], [7, 7, 1, 3]], [[5, 5, 5, 5]], [[8]]])
def test_the_gradient(dtype, ids):
    torch.manual_seed(0)
    ids = torch.tensor(ids)
    grad = torch.randn(*ids.shape, 33, dtype=dtype)
    assert_as_exact(module.embedding_backward, module.embedding_backward_reference, grad, ids, 9, 3, dtype=dtype)


def test_as_a_function():
    ids, weight = torch.tensor([1, 2, 1]), torch.randn(4, 8, requires_grad=True)
    tangent = torch.randn(3, 8)
    for padding in (-1, 1):
        (found,) = torch.autograd.grad(module.embedding(ids, weight, padding), weight, tangent)
        plain = F.embedding(ids, weight, padding_idx=padding if padding >= 0 else None)
        torch.testing.assert_close(found, torch.autograd.grad(plain, weight, tangent)[0])
