"""Inference in 8 bits with a scale for each row: shared by layers of one input, fused into what makes the input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thunder
from tests.generate.tiny_models import make_model
from thunder.kernels import kernel_mode
from thunder.plugins import FP8
from thunder.precision import quantize_model
from thunder.precision.formats import quantize
from thunder.precision.operators import linear_dynamic, linear_float8_rows, quantize_rows


def test_the_operators_are_well_formed():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 32), quantize(torch.randn(16, 32), "fp8")
    opcheck = torch.library.opcheck
    opcheck(torch.ops.thunder.quantize_rows.default, (x,))
    opcheck(torch.ops.thunder.quantize_rows.default, (x, torch.randn(32), 1e-5))
    opcheck(torch.ops.thunder.quantize_rows.default, (x, None, 1e-5, x, "gelu"))
    given = (*quantize_rows(x), weight.codes, weight.scales, torch.randn(16), torch.float32)
    opcheck(torch.ops.thunder.linear_float8_rows.default, given)


@pytest.mark.parametrize("shape", [(2, 3, 32), (1, 32), (0, 32), (32,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_are_the_same(shape, dtype):
    torch.manual_seed(0)
    x, bias = torch.randn(shape).to(dtype), torch.randn(16)
    weight = quantize(torch.randn(16, 32), "fp8")
    text = str(weight.format)
    wanted = linear_dynamic(x, weight.codes, weight.scales, None, None, bias, text, text)
    found = linear_float8_rows(*quantize_rows(x), weight.codes, weight.scales, bias, dtype)
    assert found.dtype is dtype and torch.equal(found, wanted)


def test_gradients_take_the_other_way():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(32, 16)).eval()
    quantize_model(layer, "fp8", activation="fp8")
    x = torch.randn(3, 32, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer[0].weight.sum(0).expand(3, 32))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(x.detach()))


def test_norms_and_gates_become_a_part_of_quantising():
    model = make_model("llama")
    compiled = thunder.compile(model, recipe="eager", plugins=FP8(inputs="dynamic"))
    ids = torch.arange(5, 12)[None]
    with torch.no_grad(), kernel_mode("always"):
        found = compiled(ids, use_cache=False).logits
        torch.testing.assert_close(found, model(ids, use_cache=False).logits, rtol=0.02, atol=0.02)
    ops = thunder.last_traces(compiled)[-1].ops
    calls = [op for op in ops if op.target is torch.ops.thunder.quantize_rows.default]
    layers = model.config.num_hidden_layers
    assert len(calls) == 4 * layers  # query, key and value share one, gate and up another
    assert sum(len(op.args) == 3 for op in calls) == 2 * layers  # with the norm
    assert sum(len(op.args) == 5 for op in calls) == layers  # with the gate
    assert sum(op.target is torch.ops.thunder.linear_float8_rows.default for op in ops) == 7 * layers


def test_what_is_used_elsewhere_stays():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.RMSNorm(32), nn.Linear(32, 32)

        def forward(self, x):
            y = self.norm(x)
            return y + self.linear(y)

    torch.manual_seed(0)
    model = Block().eval()
    compiled = thunder.compile(model, recipe="eager", plugins=FP8(inputs="dynamic"))
    x = torch.randn(3, 32)
    with torch.no_grad(), kernel_mode("always"):
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    ops = thunder.last_traces(compiled)[-1].ops
    assert [len(op.args) for op in ops if op.target is torch.ops.thunder.quantize_rows.default] == [1]
