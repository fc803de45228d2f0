"""`thunder::gated_activation` against float64, with gradients."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import assert_as_exact, assert_gradients_as_exact
from thunder.kernels import swiglu as module

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("interpreted", [True, False])
def test_gated_activation_of_halves(monkeypatch, dtype, activation, interpreted):
    torch.manual_seed(0)
    if not interpreted:
        monkeypatch.setattr(module, "runs_triton", lambda tensor: False)
    gate, up = torch.randn(2, 3, 100, dtype=dtype).split(50, -1)
    arguments = (gate, up, activation)
    assert_as_exact(module.gated_activation, module.gated_reference, *arguments, dtype=dtype)
    assert_gradients_as_exact(module.gated_activation, module.gated_reference, *arguments, dtype=dtype)
