"""`thunder::rope` and `thunder::rope_into_cache` against float64."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import TOLERANCE, assert_as_exact, relative_error, wide
from thunder.kernels import rope as module

pytestmark = pytest.mark.triton

DTYPES = (torch.float32, torch.bfloat16)


def heads(batch, length, count, size, dtype):
    return torch.randn(batch, length, count, size, dtype=dtype).transpose(1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_of_tables", [1, 2])
@pytest.mark.parametrize("interpreted", [True, False])
def test_rope_and_its_gradient(monkeypatch, dtype, batch_of_tables, interpreted):
    torch.manual_seed(0)
    if not interpreted:
        monkeypatch.setattr(module, "runs_triton", lambda tensor: False)
    x = heads(2, 5, 3, 16, dtype)
    cos, sin = torch.randn(2, batch_of_tables, 1, 5, 16, dtype=dtype)
    assert_as_exact(module.rope, module.rope_reference, x, cos, sin, dtype=dtype)
    assert module.rope(x, cos, sin).stride() == x.stride()
    leaf, exact = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    tangent = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(module.rope(leaf, cos, sin), leaf, tangent)
    (expected,) = torch.autograd.grad(module.rope_reference(exact, *wide((cos, sin))), exact, tangent.double())
    assert relative_error(gradient, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_into_cache(dtype):
    torch.manual_seed(0)
    q, k, v = heads(2, 3, 4, 16, dtype), heads(2, 3, 2, 16, dtype), heads(2, 3, 2, 16, dtype)
    cos, sin = torch.randn(2, 1, 1, 3, 16, dtype=dtype)
    keys, values, index = torch.randn(2, 2, 8, 16, dtype=dtype), torch.randn(2, 2, 8, 16, dtype=dtype), [3, 4, 0]
    exact_keys, exact_values = keys.double(), values.double()
    out = module.rope_into_cache(q, k, v, cos, sin, keys, values, torch.tensor(index))
    exact = module.rope_into_cache_reference(*wide((q, k, v, cos, sin)), exact_keys, exact_values, torch.tensor(index))
    for found, expected in ((out, exact), (keys, exact_keys), (values, exact_values)):
        assert relative_error(found, expected) <= TOLERANCE[dtype]
