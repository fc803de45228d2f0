"""`thunder::layer_norm` and `thunder::add_layer_norm` against float64, with gradients."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import assert_as_exact, assert_gradients_as_exact
from thunder.kernels import layer_norm as module

pytestmark = pytest.mark.triton


def add_reference(residual, x, weight, bias, eps):
    total = residual + x
    return total, module.layer_norm_reference(total, weight, bias, eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_weight, has_bias", [(True, True), (True, False), (False, False)])
def test_layer_norm(dtype, has_weight, has_bias):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 70, dtype=dtype), torch.randn(70, dtype=dtype), torch.randn(70, dtype=dtype)
    arguments = (x, weight if has_weight else None, bias if has_bias else None, 1e-5)
    assert_as_exact(module.layer_norm, module.layer_norm_reference, *arguments, dtype=dtype)
    assert_gradients_as_exact(module.layer_norm, module.layer_norm_reference, *arguments, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_layer_norm(dtype):
    torch.manual_seed(0)
    # Sums that bfloat16 holds exactly: the norm of a rounded sum is another function.
    residual, x = (torch.randint(-8, 8, (6, 40)).to(dtype) for _ in range(2))
    arguments = (residual, x, torch.randn(40, dtype=dtype), torch.randn(40, dtype=dtype), 1e-5)
    assert_as_exact(module.add_layer_norm, add_reference, *arguments, dtype=dtype)
    assert_gradients_as_exact(module.add_layer_norm, add_reference, *arguments, dtype=dtype)


def test_the_gradient_in_plain_pytorch_is_that_of_the_reference(monkeypatch):
    monkeypatch.setattr(module, "runs_triton", lambda tensor: False)
    arguments = (*(torch.randn(shape, dtype=torch.float64) for shape in ((4, 7), (7,), (7,))), 1e-5)
    assert_gradients_as_exact(module.layer_norm, module.layer_norm_reference, *arguments, dtype=torch.float32)
