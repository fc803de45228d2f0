"""Boolean masks of several layers: made into numbers once, unless something changes them in between."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import thunder
from thunder.kernels import kernel_mode
from thunder.kernels.forward_attention import FORWARD_ATTENTION


def last_torch_ops(compiled):
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    return traces[-1].ops


def masks(compiled):
    """The dtypes of the masks that attention is called with, and how many masks there are."""
    ops = last_torch_ops(compiled)
    found = [op.kwargs["attn_mask"] for op in ops if op.name == "scaled_dot_product_attention"]
    found += [op.args[3] for op in ops if op.target is FORWARD_ATTENTION]
    return [var.value.dtype for var in found], len({id(var) for var in found})


def two_layers(seen, x):
    mask = seen[:, None, None, :].expand(-1, -1, x.shape[2], -1)
    return F.scaled_dot_product_attention(F.scaled_dot_product_attention(x, x, x, attn_mask=mask), x, x, attn_mask=mask)


def changed_between(seen, x):
    mask = (seen[:, None, None, :] & torch.ones(x.shape[2], 1, dtype=torch.bool)).clone()
    first = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
    mask[:, :, :, 1] = True
    return F.scaled_dot_product_attention(first, x, x, attn_mask=mask)


def one_layer(seen, x):
    return F.scaled_dot_product_attention(x, x, x, attn_mask=seen[:, None, None, :])


def rows_that_differ(seen, x):
    rows = torch.arange(x.shape[2], device=x.device)[:, None] > 2
    mask = (seen[:, None, None, :] | rows).expand(-1, -1, x.shape[2], -1)
    return F.scaled_dot_product_attention(F.scaled_dot_product_attention(x, x, x, attn_mask=mask), x, x, attn_mask=mask)


@pytest.mark.parametrize(
    ("function", "dtypes", "count"),
    [
        (two_layers, [torch.float32] * 2, 1),
        (rows_that_differ, [torch.float32] * 2, 1),
        (changed_between, [torch.bool] * 2, 1),
        (one_layer, [torch.bool], 1),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_masks_of_layers(function, dtypes, count, grad):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 4, requires_grad=grad)
    seen = torch.tensor([[True] * 8, [False] * 3 + [True] * 5])
    with kernel_mode("always"):
        compiled = thunder.jit(function, executors=["aten"])
        out = compiled(seen, x)
    assert masks(compiled) == (dtypes, count)
    expected = function(seen, x)
    torch.testing.assert_close(out, expected)
    if grad:
        found = torch.autograd.grad(out.square().sum(), x)
        torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), x))


def test_autocast_is_left_alone():
    torch.manual_seed(0)
    x, seen = torch.randn(2, 3, 8, 4), torch.tensor([[True] * 8, [False] * 3 + [True] * 5])
    with kernel_mode("always"), torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = thunder.jit(two_layers, executors=["aten"])
        out = compiled(seen, x)
        assert masks(compiled) == ([torch.bool] * 2, 1)
        torch.testing.assert_close(out, two_layers(seen, x))


def test_rows_that_see_nothing():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 4)
    seen = torch.tensor([[True] * 8, [False] * 8])
    with kernel_mode("always"):
        out = thunder.jit(two_layers, executors=["aten"])(seen, x)
    torch.testing.assert_close(out, two_layers(seen, x), equal_nan=True)


def test_bert():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=50, **sizes)).eval()
    attention_mask = torch.ones(2, 9, dtype=torch.long)
    attention_mask[1, 6:] = 0
    kwargs = {"input_ids": torch.randint(0, 50, (2, 9)), "attention_mask": attention_mask}
    with torch.no_grad():
        expected = copy.deepcopy(model)(**kwargs).last_hidden_state
        with kernel_mode("always"):
            compiled = thunder.jit(model, executors=["aten"])
            out = compiled(**kwargs).last_hidden_state
    assert masks(compiled) == ([torch.float32] * 3, 1)
    (conversion,) = [op for op in last_torch_ops(compiled) if op.name == "mask_to_numbers"]
    assert conversion.args[0].value.shape == (2, 1, 1, 9)  # one row for all queries
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    blocks = [region.name for region in thunder.last_traces(compiled)[-1].regions()]
    assert sum(name.startswith(("encoder_layer", "layer")) for name in blocks) == 1, blocks
