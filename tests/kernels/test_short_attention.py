"""`thunder::short_attention` against float64, and where programs come to call it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thunder
from tests.kernels.comparison import TOLERANCE, relative_error, wide
from thunder.kernels import kernel_mode
from thunder.kernels import short_attention as module
from thunder.kernels.short_attention import SHORT_ATTENTION

DTYPES = (torch.float32, torch.bfloat16)


def heads(batch, length, count, size, dtype=torch.float32):
    return torch.randn(batch, length, count, size, dtype=dtype).transpose(1, 2)


@pytest.mark.triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length, group, size, tables", [(10, 6, 32, 1), (16, 1, 64, 2), (2, 4, 32, None)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_values(dtype, length, group, size, tables, is_causal):
    torch.manual_seed(0)
    q, k, v = (heads(2, length, count, size, dtype) for count in (2 * group, 2, 2))
    cos, sin = (None, None) if tables is None else torch.randn(2, tables, 1, length, size, dtype=dtype)
    out = module.short_attention(q, k, v, cos, sin, is_causal, 0.2)
    exact = module.short_attention_reference(*wide((q, k, v)), *wide((cos, sin)), is_causal, 0.2)
    assert relative_error(out, exact) <= TOLERANCE[dtype]
    assert out.transpose(1, 2).is_contiguous()


class Layer(nn.Module):
    """Attention as transformers' decoders write it, on 4 heads that share 2 of keys and values."""

    def __init__(self, size=32):
        super().__init__()
        self.size = size
        self.project = nn.Linear(24, 8 * size, bias=False)

    def rotate(self, x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    def forward(self, x, cos, sin, also_keys=False, mask=None):
        batch, length, _ = x.shape
        q, k, v = self.project(x).split((4 * self.size, 2 * self.size, 2 * self.size), -1)
        q, k, v = (part.view(batch, length, -1, self.size).transpose(1, 2) for part in (q, k, v))
        cos, sin = cos[:, None], sin[:, None]
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        keys = k
        k, v = (t[:, :, None].expand(batch, 2, 2, length, -1).reshape(batch, 4, length, -1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        out = out.transpose(1, 2).reshape(batch, length, -1)
        return (out, keys) if also_keys else out


def compiled_calls(layer, *arguments, **options):
    """(what the compiled layer returns, its calls of the kernel)."""
    with kernel_mode("always"):
        compiled = thunder.jit(layer, executors=["inductor"])
        with torch.no_grad():
            result = compiled(*arguments, **options)
    stages = thunder.last_traces(compiled)
    torch_level = [stage for stage in stages if any(op.target is SHORT_ATTENTION for op in stage.ops)]
    return result, [op for op in torch_level[-1].ops if op.target is SHORT_ATTENTION] if torch_level else []


def inputs(length):
    torch.manual_seed(0)
    return torch.randn(2, length, 24), *torch.randn(2, 1, length, 32)


def test_the_rotation_becomes_a_part_of_it():
    layer, arguments = Layer(), inputs(10)
    out, (call,) = compiled_calls(layer, *arguments)
    assert all(argument is not None for argument in call.args[:5])
    assert call.args[1].value.shape == (2, 2, 10, 32)
    torch.testing.assert_close(out, layer(*arguments))


def test_a_rotation_that_others_use_stays():
    layer, arguments = Layer(), inputs(5)
    (out, keys), (call,) = compiled_calls(layer, *arguments, also_keys=True)
    assert call.args[3:5] == (None, None)
    expected = layer(*arguments, also_keys=True)
    torch.testing.assert_close((out, keys), expected)


@pytest.mark.parametrize("length, options", [(17, {}), (5, {"mask": torch.rand(5, 5) > 0.5})])
def test_longer_and_masked_attention_stays(length, options):
    layer, arguments = Layer(), inputs(length)
    out, calls = compiled_calls(layer, *arguments, **options)
    assert calls == []
    torch.testing.assert_close(out, layer(*arguments, **options), equal_nan=True)


def test_attention_with_gradients_stays():
    layer, arguments = Layer(), inputs(5)
    with kernel_mode("always"):
        compiled = thunder.jit(layer, executors=["inductor"])
        compiled(*arguments).sum().backward()
    assert not any(op.target is SHORT_ATTENTION for stage in thunder.last_traces(compiled) for op in stage.ops)
    assert layer.project.weight.grad is not None
