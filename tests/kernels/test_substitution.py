"""Kernels in programs: what is found, what is left alone, and that results stay the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import thunder
from thunder.errors import OptionError
from thunder.kernels import disable_kernels, kernel_mode, kernel_names, placement, unregister_kernel

transformers = pytest.importorskip("transformers")

QWEN2 = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97,
}  # fmt: skip


def compile_with_kernels(function, **options):
    return thunder.jit(function, executors=["aten"], **options)


def called(compiled) -> list[str]:
    """Names of the library's operations in the last torch-level trace."""
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    return [op.name.removesuffix(".default") for op in traces[-1].ops if str(op.target).startswith("thunder")]


@pytest.fixture(scope="module")
def qwen2():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**QWEN2)
    return transformers.Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize("padded", [False, True])
def test_a_decoding_step_of_hugging_face(qwen2, padded):
    model = copy.deepcopy(qwen2)
    ids = torch.randint(0, 97, (2 if padded else 1, 10))
    options = {"attention_mask": torch.tensor([[0] + [1] * 10, [1] * 11])} if padded else {}
    with torch.no_grad():
        cache = transformers.StaticCache(config=model.config, max_cache_len=32)
        model(input_ids=ids, past_key_values=cache)
        expected = model(input_ids=ids[:, :1], past_key_values=copy.deepcopy(cache), **options).logits
        compiled = compile_with_kernels(model)
        with kernel_mode("always"):
            out = compiled(input_ids=ids[:, :1], past_key_values=copy.deepcopy(cache), **options).logits
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    names = called(compiled)
    layer = ["merged_linear", "rope_into_cache", "decode_attention", "gemv", "gemv_gated", "gemv"]
    if padded:  # norms become a part of the kernels for one row only
        layer = ["rms_norm", *layer[:4], "rms_norm", *layer[4:]]
    assert names == [*layer, *layer, "rms_norm", "gemv"]
    attention = model.model.layers[0].self_attn
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1


def test_weights_are_read_ahead_where_nothing_in_the_program_writes_them():
    def program(x, weight, other):
        other.mul_(2.0)
        return F.linear(x, weight), F.linear(x + 1.0, other), F.linear(x, weight * 2.0)

    compiled = compile_with_kernels(program)
    with torch.no_grad(), kernel_mode("always"):
        compiled(torch.ones(1, 4), torch.ones(3, 4), torch.ones(3, 4))
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    calls = [op for op in traces[-1].ops if op.name.startswith("gemv")]
    assert [op.kwargs.get("constant_weights", False) for op in calls] == [True, False, False]


def test_merged_parameters_are_the_users(qwen2):
    model = copy.deepcopy(qwen2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    ids = torch.randint(0, 97, (2, 10))
    compiled = compile_with_kernels(model)
    with torch.no_grad(), kernel_mode("always"):
        compiled(input_ids=ids)
        assert "merged_linear" in called(compiled)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
        weight = model.model.layers[0].self_attn.q_proj.weight
        changes = [
            lambda: weight.mul_(1.5),
            lambda: weight.data.mul_(1.5),
            lambda: setattr(weight, "data", weight.data.clone() * 2),
            lambda: setattr(model.model.layers[0].self_attn.q_proj, "weight", torch.nn.Parameter(weight / 3)),
            lambda: model.load_state_dict(before),
        ]
        for change in changes:
            change()
            torch.testing.assert_close(
                compiled(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5
            )
    assert placement.separate_projections(model) > 0
    assert all(p.untyped_storage().nbytes() == p.numel() * p.element_size() for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_training_after_merging(qwen2):
    model, plain = copy.deepcopy(qwen2), copy.deepcopy(qwen2)
    ids = torch.randint(0, 97, (2, 10))
    compiled = compile_with_kernels(model)
    with kernel_mode("always"):
        with torch.no_grad():
            compiled(input_ids=ids)
        for trained in (compiled, plain):
            optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
            for _ in range(2):
                optimiser.zero_grad()
                trained(input_ids=ids, labels=ids).loss.backward()
                optimiser.step()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_tensors_that_are_no_parameters_are_not_moved():
    weights = [torch.randn(3, 4), torch.randn(5, 4)]
    assert not placement.place_together(weights)
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    view = parameter.data
    assert not placement.place_together([parameter, torch.nn.Parameter(torch.randn(5, 4))])
    parameter.data.zero_()
    assert not view.any()


def test_nothing_is_substituted_on_the_cpu_by_default(qwen2):
    compiled = compile_with_kernels(qwen2)
    with torch.no_grad():
        compiled(input_ids=torch.randint(0, 97, (1, 4)))
    assert called(compiled) == []


def hugging_face_norm(x, weight):
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * h.to(x.dtype)


def litgpt_norm(x, weight):
    h = x.float()
    return (h * torch.rsqrt(torch.mean(h * h, dim=-1, keepdim=True) + 1e-6) * weight.float()).to(dtype=x.dtype)


def functional_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


@pytest.mark.parametrize("function", [hugging_face_norm, litgpt_norm, functional_norm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spellings_of_rms_norm(function, dtype):
    x, weight = torch.randn(4, 16, dtype=dtype, requires_grad=True), torch.randn(16, dtype=dtype)
    compiled = compile_with_kernels(function)
    with kernel_mode("always"):
        out = compiled(x, weight)
    assert called(compiled) == ["rms_norm"]
    torch.testing.assert_close(out, function(x, weight), rtol=2e-2, atol=2e-2)
    tangent = torch.randn_like(out)
    mine, theirs = (torch.autograd.grad(result, x, tangent)[0] for result in (out, function(x, weight)))
    torch.testing.assert_close(mine, theirs, rtol=4e-2, atol=4e-2)


def test_the_addition_before_a_norm():
    def function(residual, x, weight):
        total = residual + x
        return total, hugging_face_norm(total, weight)

    arguments = [torch.randn(4, 16, requires_grad=True), torch.randn(4, 16), torch.randn(16)]
    compiled = compile_with_kernels(function)
    with kernel_mode("always"):
        out = compiled(*arguments)
    assert called(compiled) == ["add_rms_norm"]
    torch.testing.assert_close(out, function(*arguments))


def uses_what_is_within(x, weight):
    h = x.to(torch.float32)
    scale = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (h * scale).to(x.dtype), scale


def changes_in_between(x, weight):
    h = x.clone()
    scale = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    h.add_(1.0)
    return weight * (h * scale)


def normalises_over_another_dimension(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + 1e-6))


def has_two_norms(x, weight):
    return weight * (x * torch.rsqrt((2 * x).pow(2).mean(-1, keepdim=True) + 1e-6))


@pytest.mark.parametrize(
    "function", [uses_what_is_within, changes_in_between, normalises_over_another_dimension, has_two_norms]
)
def test_what_is_not_the_pattern_is_left_alone(function):
    arguments = torch.randn(4, 16), torch.randn(16)
    compiled = compile_with_kernels(function)
    with kernel_mode("always"):
        out = compiled(*arguments)
    assert called(compiled) == []
    torch.testing.assert_close(out, function(*arguments))


def test_kernels_are_switched_off_by_name():
    x, weight = torch.randn(4, 16, requires_grad=True), torch.randn(16)
    compiled = compile_with_kernels(hugging_face_norm)
    with kernel_mode("always"), disable_kernels("rms_norm"):
        compiled(x, weight)
    assert called(compiled) == []


@torch.library.custom_op("thunder_tests::scaled_relu", mutates_args=())
def scaled_relu(x: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.relu(x) * scale


@scaled_relu.register_fake
def _(x, scale):
    return torch.empty_like(x)


def test_a_kernel_of_the_users():
    def pattern(x, scale):
        return torch.relu(x) * scale

    thunder.register_kernel(
        "scaled_relu", pattern, scaled_relu, check=lambda x, scale: scale > 1, devices=("cpu",), inference_only=True
    )
    try:
        assert kernel_names()[0] == "scaled_relu"
        x = torch.randn(5)
        larger, smaller = (compile_with_kernels(lambda x, s=s: s * F.relu(x)) for s in (2.0, 0.5))
        torch.testing.assert_close(larger(x), 2 * torch.relu(x))
        torch.testing.assert_close(smaller(x), torch.relu(x) / 2)
        assert called(larger) == ["scaled_relu"] and called(smaller) == []
    finally:
        unregister_kernel("scaled_relu")


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match="returns something that is no call"):
        thunder.register_kernel("nothing", lambda x: x, scaled_relu)
    with pytest.raises(OptionError, match="not callable"):
        thunder.register_kernel("nothing", torch.relu, None)
    with pytest.raises(OptionError, match="known: "):
        unregister_kernel("nothing")
    with pytest.raises(OptionError, match="always"), kernel_mode("sometimes"):
        pass


def litgpt_rope(x, cos, sin):
    half = x.size(-1) // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos.unsqueeze(1) + rotated * sin.unsqueeze(1)).to(dtype=x.dtype)


def hugging_face_rope(x, cos, sin):
    cos, sin = cos.unsqueeze(1).to(x.dtype), sin.unsqueeze(1).to(x.dtype)
    rotated = torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)
    return (x * cos) + (rotated * sin)


@pytest.mark.parametrize("function", [litgpt_rope, hugging_face_rope])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spellings_of_rope(function, dtype):
    x = torch.randn(2, 5, 3, 8, dtype=dtype, requires_grad=True).transpose(1, 2)
    cos, sin = torch.randn(2, 1, 5, 8)
    compiled = compile_with_kernels(function)
    with kernel_mode("always"):
        out = compiled(x, cos, sin)
    assert called(compiled) == ["rope"]
    torch.testing.assert_close(out, function(x, cos, sin), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("activation", [F.silu, F.gelu])
def test_gates(activation):
    gate, up = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8)
    compiled = compile_with_kernels(lambda gate, up: activation(gate) * up)
    with kernel_mode("always"):
        out = compiled(gate, up)
    assert called(compiled) == ["gated_activation"]
    torch.testing.assert_close(out, activation(gate) * up)


def test_layer_norm_and_the_addition_before_it():
    norm = torch.nn.LayerNorm(16)
    compiled = compile_with_kernels(lambda r, x: norm(r + x))
    arguments = torch.randn(4, 16), torch.randn(4, 16)
    with kernel_mode("always"):
        torch.testing.assert_close(compiled(*arguments), norm(sum(arguments)))
    assert called(compiled) == ["add_layer_norm"]


@pytest.mark.parametrize("batch, returns_logits", [(2, True), (2, False), (1, True)])
def test_training_of_hugging_face(qwen2, batch, returns_logits):
    model, plain = copy.deepcopy(qwen2).train(), copy.deepcopy(qwen2).train()
    ids = torch.randint(0, 97, (batch, 10))

    def step(model, ids):
        out = model(input_ids=ids, labels=ids, use_cache=False)
        return (out.loss, out.logits) if returns_logits else (out.loss,)

    compiled = compile_with_kernels(lambda ids: step(model, ids))
    with kernel_mode("always"):
        found = compiled(ids)
        expected = step(plain, ids)
        torch.testing.assert_close(found, expected)
        found[0].backward()
        expected[0].backward()
    last = "logits_and_loss" if returns_logits else "linear_cross_entropy_loss"
    names = [op.name.removesuffix(".default") for op in last_torch_trace(compiled).ops]
    layer = ["rms_norm", "rope", "rope", "add_rms_norm", "gated_activation"]
    kernels = ("embedding", "rms_norm", "add_rms_norm", "rope", "gated_activation", last)
    assert [name for name in names if name in kernels] == [
        "embedding", *layer, "add_rms_norm", *layer[1:], "add_rms_norm", last,
    ]  # fmt: skip
    products = [name for name in names if name in ("linear", "few_rows_linear")]
    assert products == (["few_rows_linear"] * 8 if batch == 1 else ["linear"] * 14)
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def last_torch_trace(compiled):
    return [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")][-1]


@pytest.mark.parametrize("padded", [False, True])
def test_masks_of_two_dimensions(padded):
    def function(query, keys, values, slots, shown):
        seen = (torch.arange(8) <= slots[:, None])[None, None]
        seen = seen & shown[:, None, None] if padded else seen
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, enable_gqa=True)

    shown = torch.ones(2, 8, dtype=torch.bool)
    shown[1, 0] = False
    arguments = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 8, 16), torch.randn(2, 2, 8, 16), torch.tensor([4]), shown
    compiled = compile_with_kernels(function)
    with kernel_mode("always"):
        torch.testing.assert_close(compiled(*arguments), function(*arguments))
    assert called(compiled) == ["decode_attention"]
    call = next(op for op in last_torch_trace(compiled).ops if op.name == "decode_attention.default")
    assert call.args[3].value.shape == (1,) and (call.args[4] is not None) == padded


def test_causal_masks_become_a_flag():
    def function(query, keys, values):
        place = torch.arange(6)
        mask = place[None, None, None, :] <= place[None, None, :, None]
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

    arguments = [torch.randn(2, 4, 6, 16) for _ in range(3)]
    compiled = compile_with_kernels(function)
    with kernel_mode("always"), disable_kernels("forward_attention"):
        torch.testing.assert_close(compiled(*arguments), function(*arguments))
    (call,) = [op for op in last_torch_trace(compiled).ops if op.name == "scaled_dot_product_attention"]
    assert call.kwargs["is_causal"] is True and call.kwargs["attn_mask"] is None


def test_a_cache_that_is_read_between_its_writes():
    def function(q, k, v, cos, sin, keys, values, index):
        q, k = hugging_face_rope(q, cos, sin), hugging_face_rope(k, cos, sin)
        keys.index_copy_(2, index, k)
        total = keys.sum()
        values.index_copy_(2, index, v)
        return q + total

    def arguments():
        torch.manual_seed(0)
        heads = [torch.randn(2, n, 3, 8) for n in (4, 2, 2)]
        return (*heads, *torch.randn(2, 1, 3, 8), *torch.randn(2, 2, 2, 9, 8), torch.tensor([1, 2, 5]))

    mine, plain = arguments(), arguments()
    compiled = compile_with_kernels(function)
    with kernel_mode("always"):
        torch.testing.assert_close(compiled(*mine), function(*plain))
    assert called(compiled) == ["rope", "rope"]
    torch.testing.assert_close(mine, plain)


LOSSES = {
    "reshape": (lambda logits, target: F.cross_entropy(logits.reshape(-1, logits.size(-1)), target.reshape(-1)), 0),
    "view of a tuple, widened": (
        lambda logits, target: F.cross_entropy(logits.float().view((-1, 13)), target.view(-1), reduction="sum"), 0,
    ),
    "flatten": (lambda logits, target: F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=3), 0),
    "flatten, then widened": (
        lambda logits, target: F.cross_entropy(torch.flatten(logits, end_dim=-2).float(), target.flatten()), 0,
    ),
    "module": (lambda logits, target: torch.nn.CrossEntropyLoss()(logits.view(-1, 13).float(), target.view(-1)), 0),
    "shifted as by Hugging Face": (
        lambda logits, target: F.cross_entropy(
            logits.float()[..., :-1, :].contiguous().view(-1, 13), target[..., 1:].contiguous().view(-1)
        ),
        1,
    ),
    "shifted": (lambda logits, target: F.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten()), 1),
    "of every other word": (lambda logits, target: F.cross_entropy(logits[..., ::2].flatten(0, 1), target.view(-1)), 2),
    "of the last token": (lambda logits, target: F.cross_entropy(logits[:, -1], target[:, -1]), 2),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_spellings_of_the_loss(name, dtype):
    torch.manual_seed(0)
    loss, kind = LOSSES[name]
    hidden, weight = torch.randn(2, 5, 8, dtype=dtype, requires_grad=True), torch.randn(13, 8, dtype=dtype)
    weight.requires_grad_()
    target = torch.randint(0, 7, (2, 5))
    compiled = compile_with_kernels(lambda hidden, weight: loss(F.linear(hidden, weight), target))
    with kernel_mode("always"):
        found = compiled(hidden, weight)
    gradients = torch.autograd.grad(found, (hidden, weight))
    expected = loss(F.linear(hidden, weight), target)
    tolerance = {} if dtype is torch.float32 else {"rtol": 3e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (hidden, weight)), **tolerance)
    names = [op.name for op in last_torch_trace(compiled).ops]
    known = ("linear_cross_entropy_loss", "loss_of_tokens")
    assert [name for name in names if name in known] == ([] if kind == 2 else [known[kind]])
