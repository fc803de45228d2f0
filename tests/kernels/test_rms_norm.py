"""`thunder::rms_norm` and `thunder::add_rms_norm` against float64, with gradients."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import assert_as_exact, assert_gradients_as_exact
from thunder.kernels import rms_norm as module

pytestmark = pytest.mark.triton


def add_reference(residual, x, weight, eps, offset=0.0):
    total = residual + x
    return total, module.rms_norm_reference(total, weight, eps, offset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 40), (2, 3, 130), (1, 1, 1)])
@pytest.mark.parametrize("has_weight, offset", [(True, 0.0), (True, 1.0), (False, 0.0)])
def test_rms_norm(dtype, shape, has_weight, offset):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    weight = torch.randn(shape[-1], dtype=dtype) if has_weight else None
    arguments = (x, weight, 1e-5, offset)
    assert_as_exact(module.rms_norm, module.rms_norm_reference, *arguments, dtype=dtype)
    if shape[-1] > 1:  # the gradient of a single element is rounding alone
        assert_gradients_as_exact(module.rms_norm, module.rms_norm_reference, *arguments, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_rms_norm(dtype):
    torch.manual_seed(0)
    # Sums that bfloat16 holds exactly: the norm of a rounded sum is another function.
    residual, x = (torch.randint(-8, 8, (6, 40)).to(dtype) for _ in range(2))
    arguments = (residual, x, torch.randn(40, dtype=dtype), 1e-5)
    assert_as_exact(module.add_rms_norm, add_reference, *arguments, dtype=dtype)
    assert_gradients_as_exact(module.add_rms_norm, add_reference, *arguments, dtype=dtype)


def test_the_gradient_in_plain_pytorch_is_that_of_the_reference(monkeypatch):
    monkeypatch.setattr(module, "runs_triton", lambda tensor: False)
    x, weight = torch.randn(4, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    assert_gradients_as_exact(module.rms_norm, module.rms_norm_reference, x, weight, 1e-5, dtype=torch.float32)


def test_rows_that_are_not_contiguous():
    x = torch.randn(4, 3, 20).transpose(0, 1)[..., :10]
    torch.testing.assert_close(module.rms_norm(x, None, 1e-6), module.rms_norm_reference(x, None, 1e-6))
