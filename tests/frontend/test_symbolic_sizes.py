"""Sizes that vary become symbols: how many programs are made, what they rely on, and that the answers stay right."""

import math
import re

import pytest
import torch
import torch.nn as nn
from transformers import LlamaConfig, LlamaForCausalLM

import thunder

VARIED = {"executors": ["eager"], "cache": "symbolic values"}
MARKED = {**VARIED, "all_dynamic": True}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=97,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_fifty_lengths_are_two_programs(model):
    compiled = thunder.jit(model, **VARIED)
    for length in range(3, 53):
        ids = torch.randint(0, 97, (1, length))
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    assert thunder.cache_misses(compiled) == 2
    assert thunder.compile_stats(compiled).plain_calls == 0


@torch.no_grad()
def test_marked_from_the_start(model):
    compiled = thunder.jit(model, **MARKED)
    for batch, length in [(2, 5), (3, 9), (4, 17)]:
        ids = torch.randint(0, 97, (batch, length))
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    assert thunder.cache_misses(compiled) == 1


def test_a_decision_on_a_size_is_a_guard_that_is_printed():
    def program(x):
        return x * 2 if x.shape[0] > 8 else x + 1

    compiled = thunder.jit(program, **MARKED)
    for length in (3, 5, 9, 20, 8, 4):
        x = torch.randn(length)
        torch.testing.assert_close(compiled(x), program(x))
    assert thunder.cache_misses(compiled) == 2
    assert "<= 8" in str(thunder.last_prologue(compiled)) or "> 8" in str(thunder.last_prologue(compiled))


def test_equal_sizes_are_a_relation_of_the_prologue():
    def program(x, y):
        return x + y

    compiled = thunder.jit(program, **MARKED)
    for sizes in [(4, 4), (7, 7), (5, 1), (6, 6)]:
        x, y = (torch.randn(size) for size in sizes)
        torch.testing.assert_close(compiled(x, y), program(x, y))
    with pytest.raises(RuntimeError, match="must match"):
        compiled(torch.randn(4), torch.randn(3))


def test_sizes_computed_before_another_symbol_is_met():
    def program(x, y):
        head = torch.zeros(x.shape[0] * 2)
        return head.sum() + torch.ones(y.shape[0] + 3).sum() + y.sum()

    compiled = thunder.jit(program, **MARKED)
    for sizes in [(3, 5), (4, 9)]:
        x, y = (torch.randn(size) for size in sizes)
        torch.testing.assert_close(compiled(x, y), program(x, y))
    assert thunder.cache_misses(compiled) == 1


def test_gradients_with_symbols():
    layer = nn.Linear(4, 4)
    compiled = thunder.jit(lambda x: layer(x).tanh().mean(), **MARKED)
    for length in (2, 5, 8):
        x = torch.randn(length, 4)
        expected = torch.autograd.grad(layer(x).tanh().mean(), layer.weight)
        torch.testing.assert_close(torch.autograd.grad(compiled(x), layer.weight), expected)
    assert thunder.cache_misses(compiled) == 1


def test_fifty_lengths_and_batches_of_a_model_take_two_programs_with_default_executors():
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Qwen2Config(num_key_value_heads=2, vocab_size=99, **shape)
    model = transformers.Qwen2ForCausalLM(config).eval()
    compiled = thunder.compile(model)
    with torch.no_grad():
        for length in range(2, 52):
            tokens = torch.randint(0, 99, (2 + length % 3, length))
            found, expected = (call(input_ids=tokens, use_cache=False).logits for call in (compiled, model))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    statistics = thunder.compile_stats(compiled)
    assert statistics.cache_misses == 2 and statistics.plain_calls == 0
    assert re.search(r"n0 = \w+\[0\](?s:.)*n1 = \w+\[1\]", thunder.last_prologue(compiled))


def test_the_length_of_a_tensor_is_a_symbol():
    compiled = thunder.jit(lambda x: x.sum() / len(x), **VARIED)
    for length in range(2, 12):
        x = torch.randn(length)
        torch.testing.assert_close(compiled(x), x.sum() / length)
    assert thunder.cache_misses(compiled) == 2


def test_sizes_that_the_program_marks_are_symbols_from_the_first_call_on():
    compiled = thunder.jit(lambda x, y: x.sum() * y.shape[0] + y.sum(), **VARIED)
    for length in range(3, 8):
        x, y = torch.randn(4), torch.randn(length, 2)
        torch._dynamo.mark_dynamic(y, 0)
        torch.testing.assert_close(compiled(x, y), x.sum() * length + y.sum())
    assert thunder.cache_misses(compiled) == 1
    assert "n0 = " in thunder.last_prologue(compiled) and "n1" not in thunder.last_prologue(compiled)


def test_code_that_takes_no_symbols_gets_numbers():
    tables = {}

    def program(x):
        if x.shape[0] not in tables:
            tables[x.shape[0]] = float(x.shape[0])
        return x * tables[x.shape[0]]

    compiled = thunder.jit(program, **VARIED)
    for length in (3, 4, 5, 4, 3):
        x = torch.randn(length)
        torch.testing.assert_close(compiled(x), x * length)
    assert sorted(tables) == [3, 4, 5] and thunder.compile_stats(compiled).plain_calls == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[: math.ceil(x.shape[0] / 3)],
        lambda x: x[: int(x.shape[0] / 3)],
        lambda x: x / math.sqrt(x.shape[0]),
        lambda x: x.mean() + float(x.shape[0]) + int(x.shape[0]) * 0.5,
        lambda x: (x * torch.tensor(x.shape[0]), x * torch.tensor(1.0 / x.shape[0])),
        lambda x: x[slice(0, divmod(x.shape[0], 4)[0])],
    ],
)
def test_numbers_made_from_a_size_are_symbols(function):
    compiled = thunder.jit(function, cache="symbolic values", executors=["eager"])
    for length in (12, 7, 31, 20):
        x = torch.randn(length, 4)
        torch.testing.assert_close(compiled(x), function(x))
    assert thunder.cache_misses(compiled) == 2


def test_texts_of_sizes_tell_the_number():
    def describe(x):
        n = x.shape[0]
        older = "%d of %s" % (n, x.shape), "{}".format(n)  # noqa: UP031, UP032 (forms that programs use)
        return x + 1, f"{n}", f"{n:>5}|{n / 2:.2f}", older, str((n, 2)), repr([n])

    compiled = thunder.jit(describe, cache="symbolic values", executors=["eager"])
    for length in (12, 7, 31):
        x = torch.randn(length, 4)
        assert compiled(x)[1:] == describe(x)[1:]


def test_a_message_about_a_size_that_depends_on_values_is_no_decision():
    def checked(x):
        found = x[x > 0]
        message = f"{found.shape[0]:d} of {x.shape}, {found.shape}"
        torch._check(found.shape[0] >= 0, lambda: message)
        return found * 2

    x = torch.randn(9)
    torch.testing.assert_close(thunder.jit(checked, executors=["eager"])(x), checked(x))


def test_a_gradient_that_is_a_view_needs_no_symbols_of_its_own():
    """The gradient of a sum is one number that is seen many times; its base has no place in the program."""
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [torch.optim.AdamW([weight], lr=0.1) for weight in weights]

    def step(x, weight, optimizer):
        weight.grad = torch.autograd.grad((x.sum(0) + weight).sum(), weight)[0]
        optimizer.step()
        return weight.detach().clone()

    compiled = thunder.jit(lambda x: step(x, weights[1], optimizers[1]), cache="symbolic values", executors=["eager"])
    for length in (5, 8, 3, 9):
        x = torch.ones(length, 3)
        torch.testing.assert_close(compiled(x), step(x, weights[0], optimizers[0]))
    assert thunder.cache_misses(compiled) <= 3
