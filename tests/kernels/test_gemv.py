"""`thunder::gemv`, `thunder::gemv_gated` and `thunder::merged_linear` against float64."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import TOLERANCE, assert_as_exact, relative_error, wide
from thunder.kernels import gemv, merged_linear, skinny
from thunder.kernels.placement import merged

pytestmark = pytest.mark.triton

DTYPES = (torch.float32, torch.bfloat16)
SIZES = ((1, 6, 300), (3, 5, 520), (16, 40, 64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, n, k", SIZES)
@pytest.mark.parametrize(
    "bias, residual, norm, activation",
    [
        (False, False, False, "none"),
        (True, True, True, "silu"),
        (False, True, True, "gelu_tanh"),
        (True, False, False, "gelu"),
    ],
)
def test_gemv(dtype, rows, n, k, bias, residual, norm, activation):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, k, dtype=dtype), torch.randn(n, k, dtype=dtype) / k**0.5
    arguments = (
        x,
        weight,
        torch.randn(n, dtype=dtype) if bias else None,
        torch.randn(rows, n, dtype=dtype) if residual else None,
        torch.randn(k, dtype=dtype) if norm else None,
        1e-5,
        activation,
    )
    assert_as_exact(gemv.gemv, gemv.gemv_reference, *arguments, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_gemv_gated_with_norm_and_strided_rows(dtype, activation):
    torch.manual_seed(0)
    x = torch.randn(3, 200, dtype=dtype)[:, :130]
    gate, up = torch.randn(12, 130, dtype=dtype), torch.randn(12, 150, dtype=dtype)[:, :130]
    norm = torch.randn(130, dtype=dtype)
    assert_as_exact(gemv.gemv_gated, gemv.gemv_gated_reference, x, gate, up, norm, 1e-6, activation, dtype=dtype)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_linear_wherever_the_weights_lie(together, rows, bias):
    torch.manual_seed(0)
    sizes = (6, 2, 3)
    weights = list(torch.randn(sum(sizes), 40).split(sizes))
    biases = list(torch.randn(sum(sizes)).split(sizes)) if bias else []
    if not together:
        weights = [weight.clone() for weight in weights[::-1]][::-1]
        assert merged(weights) is None
    arguments = (torch.randn(rows, 1, 40), weights, biases, torch.randn(40), 1e-6)
    assert_as_exact(merged_linear.merged_linear, merged_linear.merged_linear_reference, *arguments, dtype=torch.float32)


def test_the_reference_is_used_on_cpu_tensors_without_the_interpreter(monkeypatch):
    monkeypatch.setattr(gemv, "runs_triton", lambda tensor: False)
    x, weight = torch.randn(2, 8), torch.randn(3, 8)
    torch.testing.assert_close(gemv.gemv(x, weight), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "rows, gated, has_norm", [(2, True, False), (10, False, True), (19, False, False), (7, True, True)]
)
@pytest.mark.parametrize("k", [150, 128])
def test_the_kernel_for_several_rows(dtype, rows, gated, has_norm, k):
    torch.manual_seed(0)
    n = 37
    x, residual = torch.randn(rows, 160, dtype=dtype)[:, :k], torch.randn(rows, 40, dtype=dtype)[:, :n]
    weight, up = torch.randn(n, k, dtype=dtype) / k**0.5, torch.randn(n, k, dtype=dtype) / k**0.5
    bias, out = torch.randn(n, dtype=dtype), torch.empty(rows, n, dtype=dtype)
    norm = torch.randn(k, dtype=dtype) if has_norm else None
    plan = skinny.SkinnyPlan(16, 64, 1, 3)
    if gated:
        skinny.launch(x, weight, up, None, None, "silu", out, plan, norm=norm, eps=1e-2)
        exact = gemv.gemv_gated_reference(*wide((x, weight, up, norm)), 1e-2, "silu")
    else:
        skinny.launch(x, weight, None, bias, residual, "gelu", out, plan, norm=norm, eps=1e-2)
        exact = gemv.gemv_reference(*wide((x, weight, bias, residual, norm)), 1e-2, "gelu")
    assert relative_error(out, exact) <= TOLERANCE[dtype]


@pytest.mark.parametrize("rows, k, splits", [(10, 150, 2), (3, 256, 3), (16, 64, 9), (20, 200, 4)])
def test_the_walk_of_several_rows_is_divided(rows, k, splits):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, k), torch.randn(37, k) / k**0.5
    bias, residual, out = torch.randn(37), torch.randn(rows, 40)[:, :37], torch.empty(rows, 37)
    plan = skinny.SkinnyPlan(16, 32, 1, 2, splits=splits)
    skinny.launch(x, weight, None, bias, residual, "gelu", out, plan)
    exact = gemv.gemv_reference(*wide((x, weight, bias, residual)), activation="gelu")
    assert relative_error(out, exact) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("block_k, ahead", [(64, False), (64, True), (256, True)])
@pytest.mark.parametrize("gated", [False, True])
def test_the_walking_kernel(block_k, ahead, gated, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(gemv, "begins_early", lambda device: False)
    n, k = 5, 150
    x, norm = torch.randn(1, k), torch.randn(k)
    weight, up = torch.randn(n, k) / k**0.5, torch.randn(n, k) / k**0.5
    plan = gemv.Plan(2, block_k, 1, stages=3)
    out = gemv.launch(x, weight, up if gated else None, None, None, norm, 1e-6, "silu", plan=plan, ahead=ahead)
    if gated:
        exact = gemv.gemv_gated_reference(*wide((x, weight, up, norm)))
    else:
        exact = gemv.gemv_reference(*wide((x, weight, None, None, norm)), 1e-6, "silu")
    assert relative_error(out, exact) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_n, gated", [(1, False), (2, True), (4, False)])
@pytest.mark.parametrize("programs", [1, 100])
def test_the_resident_kernel(dtype, block_n, gated, programs):
    torch.manual_seed(0)
    n, k = 9, 150
    x, norm = torch.randn(1, k, dtype=dtype), torch.randn(k, dtype=dtype)
    weight, up = torch.randn(n, k, dtype=dtype) / k**0.5, torch.randn(n, k, dtype=dtype) / k**0.5
    bias, residual = (None, None) if gated else (torch.randn(n, dtype=dtype), torch.randn(1, n, dtype=dtype))
    plan = gemv.Plan(block_n, 0, 1, resident=programs)
    out = gemv.launch(x, weight, up if gated else None, bias, residual, norm, 1e-6, "silu", plan=plan)
    if gated:
        exact = gemv.gemv_gated_reference(*wide((x, weight, up, norm)))
    else:
        exact = gemv.gemv_reference(*wide((x, weight, bias, residual, norm)), 1e-6, "silu")
    assert relative_error(out, exact) <= TOLERANCE[dtype]
