"""Queries in the memory order in which attention's result is wanted: found, left alone, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import thunder
from thunder.kernels import kernel_mode


def rotated(query):
    return torch.cat((query[..., 4:], query[..., :4]), dim=-1)


def reordered(query, key, value):
    out = F.scaled_dot_product_attention(rotated(query), key, value, is_causal=True).transpose(1, 2)
    return out.reshape(*out.shape[:2], -1)


def contiguous(query, key, value):
    out = F.scaled_dot_product_attention(rotated(query), key, value).transpose(1, 2).contiguous()
    return out.view(*out.shape[:2], -1)


def returned(query, key, value):
    return F.scaled_dot_product_attention(rotated(query), key, value).transpose(1, 2)


def head_by_head(query, key, value):
    return F.scaled_dot_product_attention(rotated(query), key, value).view(6, 8, -1)


def already(query, key, value):
    query = rotated(query.transpose(1, 2)).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 8, -1)


@pytest.mark.parametrize(
    ("function", "changed"),
    [(reordered, True), (contiguous, True), (returned, False), (head_by_head, False), (already, False)],
)
def test_queries(function, changed):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 8, 8, requires_grad=True) for _ in range(3)]
    with kernel_mode("always"):
        compiled = thunder.jit(function, executors=["aten"])
        out = compiled(*inputs)
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    assert ("position_by_position" in [op.name for op in traces[-1].ops]) == changed
    expected = function(*inputs)
    torch.testing.assert_close(out, expected)
    assert out.stride() == expected.stride()
    found = torch.autograd.grad(out.square().sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), inputs))
