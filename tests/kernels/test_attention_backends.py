"""Attention whose arguments' layout keeps PyTorch from its fused kernels: mended, with the same values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import thunder
from thunder.kernels import disable_kernels, kernel_mode


def three_dimensions(x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def three_dimensions_and_mask(x):
    return F.scaled_dot_product_attention(x, x, x, attn_mask=x @ x.mT > 0.5)


def transposed(x):
    x = x.mT
    return F.scaled_dot_product_attention(x, x, x).mT.contiguous()


def viewed_afterwards(x):
    """The layout of the plain operators' result is needed here."""
    query = x.transpose(1, 2).mT.contiguous().mT  # [b, s, h, d], h innermost
    return F.scaled_dot_product_attention(query, query, query).view(-1, x.shape[1], x.shape[3])


def as_it_is(x):
    return F.scaled_dot_product_attention(x, x, x)


def run_operators(compiled) -> set[str]:
    return {op.name for region in thunder.last_traces(compiled)[-1].regions() for op in region.trace.ops}


@pytest.mark.parametrize(
    ("function", "shape", "mended"),
    [
        (three_dimensions, (3, 8, 16), True),
        (three_dimensions_and_mask, (3, 8, 16), False),
        (transposed, (2, 3, 8, 16), True),
        (viewed_afterwards, (2, 3, 8, 16), None),
        (as_it_is, (2, 3, 8, 16), False),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_layouts(function, shape, mended, grad):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=grad)
    with kernel_mode("always"), disable_kernels("forward_attention"):
        compiled = thunder.jit(function, executors=["aten"])
        out = compiled(x)
    expected = function(x)
    torch.testing.assert_close(out, expected, equal_nan=True)
    assert out.stride() == expected.stride()
    if grad:
        found = torch.autograd.grad(out.nan_to_num().square().sum(), x)
        wanted = torch.autograd.grad(expected.nan_to_num().square().sum(), x)
        torch.testing.assert_close(found, wanted, equal_nan=True)
    if mended is not None:
        traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
        assert ("fused_attention" in [op.name for op in traces[-1].ops]) == mended
        assert any("flash_attention" in name for name in run_operators(compiled)) == (mended or x.dim() == 4)
