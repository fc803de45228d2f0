"""Masks that no input goes into: the causal ones and those that hide nothing are recognised, all others stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import thunder
from thunder.kernels import kernel_mode

LENGTH = 12


def positions(query):
    return torch.arange(query.shape[2], device=query.device)


def comparison(query):
    return positions(query)[:, None] >= positions(query)[None, :]


def packed_sequences(query):
    ids = positions(query)[None].expand(query.shape[0], -1)
    sequence = (torch.diff(ids, prepend=ids[:, :1] - 1, dim=-1) != 1).cumsum(-1)
    batch = torch.arange(query.shape[0], device=query.device)[:, None, None, None]
    q, k = positions(query)[None, None, :, None], positions(query)[None, None, None, :]
    return (k <= q) & (sequence[batch, q] == sequence[batch, k])


def triangle(query):
    return torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()


def infinities(query):
    return torch.full((query.shape[2], query.shape[2]), float("-inf"), device=query.device).triu(1)


def smallest_numbers(query):
    hidden = torch.full((), torch.finfo(query.dtype).min, device=query.device)
    return torch.where(triangle(query), torch.zeros((), device=query.device), hidden)[None, None]


def everything(query):
    return (positions(query)[None, None, :, None] >= 0).expand(query.shape[0], -1, -1, query.shape[2])


def zeros(query):
    return torch.zeros(query.shape[2], query.shape[2], device=query.device)


def sliding_window(query):
    distance = positions(query)[:, None] - positions(query)[None, :]
    return (distance >= 0) & (distance < 5)


def one_hidden(query):
    mask = triangle(query)
    mask[7, 3] = False
    return mask


def slopes(query):
    return (positions(query)[None, :] - positions(query)[:, None]).float() * 0.5


def changed_later(query):
    mask = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device)
    mask.tril_(-1).logical_or_(mask.new_ones(()).expand_as(mask).tril() & (positions(query) == 0))
    return mask


def attention(make_mask, query, key, value):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=make_mask(query))


def mask_of(compiled):
    """The mask and the causality that attention is called with."""
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    (call,) = [op for op in traces[-1].ops if op.name == "scaled_dot_product_attention"]
    return call.kwargs.get("attn_mask"), call.kwargs.get("is_causal", False), len(traces[-1].ops)


@pytest.mark.parametrize(
    ("make_mask", "is_causal"),
    [
        *((make, True) for make in (comparison, packed_sequences, triangle, infinities, smallest_numbers)),
        *((make, False) for make in (everything, zeros)),
    ],
)
def test_recognised(make_mask, is_causal):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, LENGTH, 8, requires_grad=True) for _ in range(3)]
    expected = attention(make_mask, *inputs)
    expected_gradients = torch.autograd.grad(expected.square().sum(), inputs)
    with kernel_mode("always"):
        compiled = thunder.jit(attention, executors=["aten"])
        out = compiled(make_mask, *inputs)
    assert mask_of(compiled) == (None, is_causal, 1)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), inputs), expected_gradients)


@pytest.mark.parametrize("make_mask", [sliding_window, one_hidden, slopes, changed_later])
def test_left_alone(make_mask):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, LENGTH, 8) for _ in range(3)]
    with kernel_mode("always"):
        compiled = thunder.jit(attention, executors=["aten"])
        out = compiled(make_mask, *inputs)
    mask, is_causal, _ = mask_of(compiled)
    assert mask is not None and not is_causal
    torch.testing.assert_close(out, attention(make_mask, *inputs))


def test_an_input_in_the_mask():
    def padded(seen, query, key, value):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=triangle(query) & seen[:, None, None, :])

    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, LENGTH, 8) for _ in range(3)]
    seen = torch.ones(2, LENGTH, dtype=torch.bool)
    with kernel_mode("always"):
        compiled = thunder.jit(padded, executors=["aten"])
        compiled(seen, *inputs)
        seen[1, 0] = False
        seen[1, 5] = False
        torch.testing.assert_close(compiled(seen, *inputs), padded(seen, *inputs), equal_nan=True)
    assert mask_of(compiled)[0] is not None


def test_more_keys_than_queries():
    """`is_causal` aligns the first query with the first key; here the last ones are aligned."""

    def with_past(query, key, value):
        q, k = torch.arange(4, LENGTH), torch.arange(LENGTH)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=q[:, None] >= k)

    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, LENGTH - 4, 8), torch.randn(1, 2, LENGTH, 8), torch.randn(1, 2, LENGTH, 8)]
    with kernel_mode("always"):
        compiled = thunder.jit(with_past, executors=["aten"])
        torch.testing.assert_close(compiled(*inputs), with_past(*inputs))
    mask, is_causal, _ = mask_of(compiled)
    assert mask is not None and not is_causal


@pytest.mark.parametrize(("family", "options", "is_causal"), [
    ("Qwen2", {"num_key_value_heads": 2}, True),
    ("Mistral", {"num_key_value_heads": 2, "sliding_window": 4}, False),
    ("ViT", {"image_size": 32, "patch_size": 8}, False),
])  # fmt: skip
def test_hugging_face(family, options, is_causal):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(**sizes, **options)
    if family == "ViT":
        model = transformers.ViTForImageClassification(config).eval()
        kwargs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    else:
        config.vocab_size = 50
        model = transformers.AutoModelForCausalLM.from_config(config).train()
        kwargs = {"input_ids": torch.randint(0, 50, (2, LENGTH)), "use_cache": False}
    reference = copy.deepcopy(model)
    expected = reference(**kwargs).logits
    expected.square().mean().backward()
    with kernel_mode("always"):
        compiled = thunder.jit(model, executors=["aten"])
        out = compiled(**kwargs).logits
        out.square().mean().backward()
    mask, found_causal, _ = mask_of(compiled)
    assert found_causal == is_causal and (mask is None) == (family != "Mistral")
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
