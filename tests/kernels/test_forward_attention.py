"""`thunder::forward_attention` against float64, and its place in programs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import thunder
from tests.kernels.comparison import assert_as_exact
from tests.kernels.test_shared_masks import last_torch_ops, one_layer, rows_that_differ, two_layers
from thunder.kernels import forward_attention as module
from thunder.kernels import kernel_mode


def make_arguments(dtype, size, queries, keys, group=1, mask=None, causal=False):
    torch.manual_seed(0)
    batch, heads = 2, 4
    query = torch.randn(batch, queries, heads, size, dtype=dtype).transpose(1, 2)
    key, value = (torch.randn(batch, keys, heads // group, size, dtype=dtype).transpose(1, 2) for _ in range(2))
    row = None
    if mask is not None:
        row = torch.zeros(batch, 1, 1, keys, dtype=dtype).masked_fill(torch.rand(batch, 1, 1, keys) > 0.6, mask)
        row[..., 0] = 0
        row = row.expand(-1, -1, queries, -1)
    return query, key, value, row, causal, 0.1


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "size, queries, keys, options",
    [
        (64, 130, 130, {"mask": float("-inf")}),
        (64, 64, 128, {"mask": -3.0, "group": 2}),
        (80, 20, 70, {"mask": float("-inf")}),
        (128, 10, 10, {"causal": True, "group": 4}),
        (64, 150, 150, {"causal": True, "mask": -2.0}),
        (64, 33, 50, {}),
    ],
)
def test_values(dtype, size, queries, keys, options):
    arguments = make_arguments(dtype, size, queries, keys, **options)
    assert module.is_supported(*arguments[:4])
    assert_as_exact(module.forward_attention, module.forward_attention_reference, *arguments, dtype=dtype)


@pytest.mark.triton
def test_a_query_that_sees_no_key_gets_zeros():
    query, key, value, mask, *rest = make_arguments(torch.bfloat16, 64, 40, 40, mask=float("-inf"))
    mask = mask.clone()
    mask[1] = float("-inf")
    out = module.forward_attention(query, key, value, mask, *rest)
    assert bool((out[1] == 0).all()) and bool(out[0].isfinite().all())
    torch.testing.assert_close(
        out.float(), module.forward_attention_reference(query, key, value, mask, *rest).float(), rtol=2e-2, atol=2e-2
    )


def test_a_mask_with_different_rows_is_not_taken():
    query, key, value, _, *_ = make_arguments(torch.float32, 64, 40, 40)
    assert not module.is_supported(query, key, value, torch.zeros(2, 1, 40, 40))
    assert module.is_supported(query, key, value, torch.zeros(2, 1, 1, 40))


def causal_groups(seen, x):
    return F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], is_causal=True, enable_gqa=True)


@pytest.mark.parametrize(
    "function, calls", [(two_layers, 2), (rows_that_differ, 0), (one_layer, 0), (causal_groups, 1)]
)
@pytest.mark.parametrize("grad", [False, True])
def test_which_calls_of_a_program_are_taken(function, calls, grad):
    """Without gradients: without a boolean mask, where masks of several layers have become one row of numbers."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 16, requires_grad=grad)
    seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with kernel_mode("always"):
        compiled = thunder.jit(function, executors=["aten"])
        torch.testing.assert_close(compiled(seen, x), function(seen, x))
    assert [op.name for op in last_torch_ops(compiled)].count("forward_attention.default") == (0 if grad else calls)
