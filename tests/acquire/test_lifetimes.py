"""What a program depends on lives no longer for it than in plain Python (`thunder/frontend/entries.py`)."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import thunder

jit = functools.partial(thunder.jit, executors=["eager"])


@pytest.fixture(autouse=True, scope="module")
def collected_by_hand() -> Iterator[None]:
    """Collections come where a test asks for them, and are quick: they leave out what exists already."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.sizes[0]


class Node:
    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale
        self.me = self  # only the garbage collector frees it


def parts_of(model: torch.nn.Module) -> list[weakref.ref[Any]]:
    return [weakref.ref(part) for part in (model, *model.children(), *model.parameters())]


def count_alive(references: list[weakref.ref[Any]]) -> int:
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_model_that_was_replaced_is_freed_by_the_next_call(calls: int) -> None:
    holder = types.SimpleNamespace(model=Net())
    compiled = jit(lambda x: holder.model(x))
    x = torch.ones(2, 4)
    for _ in range(calls):
        compiled(x)
    references = parts_of(holder.model)
    holder.model = Net()
    torch.testing.assert_close(compiled(x), holder.model(x))
    assert count_alive(references) == 0
    torch.testing.assert_close(compiled(x), holder.model(x))
    assert thunder.cache_misses(compiled) == 2


def test_a_model_that_was_deleted_is_freed_by_a_collection() -> None:
    holder = types.SimpleNamespace(model=Net())
    compiled = jit(lambda x: holder.model(x) if hasattr(holder, "model") else x)
    x = torch.ones(2, 4)
    for _ in range(3):
        compiled(x)
    references = parts_of(holder.model)
    del holder.model
    gc.collect()
    assert count_alive(references) == 0
    torch.testing.assert_close(compiled(x), x)


def test_cycles_are_freed_by_a_collection() -> None:
    holder = types.SimpleNamespace(node=Node())
    compiled = jit(lambda x: x * holder.node.scale)
    for _ in range(3):
        compiled(torch.ones(2))
    reference = weakref.ref(holder.node)
    holder.node = Node(3.0)
    gc.collect()
    assert reference() is None
    torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 3.0))


def test_models_that_take_turns_are_compiled_once_each() -> None:
    models = [Net(), Net()]
    holder = types.SimpleNamespace(model=models[0])
    compiled = jit(lambda x: holder.model(x))
    x = torch.ones(2, 4)
    for turn in range(8):
        holder.model = models[turn % 2]
        torch.testing.assert_close(compiled(x), holder.model(x))
        if turn % 3 == 0:
            gc.collect()
    assert thunder.cache_misses(compiled) == 2


def test_programs_answer_after_a_collection_as_before() -> None:
    model = Net()
    compiled = jit(model)
    x = torch.ones(2, 4)
    for _ in range(4):
        gc.collect()
        torch.testing.assert_close(compiled(x), model(x))
    assert thunder.cache_misses(compiled) == 1
    gc.collect()
    model.sizes[0] = 5
    torch.testing.assert_close(compiled(x), model(x))
    gc.collect()
    model.sizes = [7]
    torch.testing.assert_close(compiled(x), model(x))
    gc.collect()
    model.linear.weight = torch.nn.Parameter(torch.zeros(4, 4))
    torch.testing.assert_close(compiled(x), model(x))
    assert thunder.cache_misses(compiled) == 4
    assert thunder.compile_stats(compiled).plain_calls == 0


def test_arguments_die_after_the_call() -> None:
    class Cache:
        def __init__(self) -> None:
            self.keys = [torch.zeros(2)]
            self.seen: dict[str, int] = {}

    def subject(x: torch.Tensor, cache: Cache) -> torch.Tensor:
        cache.keys.append(x + cache.keys[-1])
        cache.seen["calls"] = cache.seen.get("calls", 0) + 1
        return cache.keys[-1]

    compiled = jit(subject)
    for _ in range(3):
        cache = Cache()
        first = cache.keys[0]
        references = [weakref.ref(cache), weakref.ref(first)]
        compiled(torch.ones(2), cache)
        assert len(cache.keys) == 2 and cache.seen == {"calls": 1}
        del cache, first
        assert count_alive(references) == 0


@pytest.mark.parametrize("warm", [0, 3])
def test_weak_references_that_a_program_reads_die(warm: int) -> None:
    holder = types.SimpleNamespace(net=Net())
    reference, table = weakref.ref(holder.net), weakref.WeakValueDictionary(net=holder.net)
    members = weakref.WeakSet([holder.net])

    def subject(x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        net = reference()
        if net is not None:
            x = net(x)
        return x, ("net" in table, len(table), len(members), sum(1 for _ in members))

    compiled = jit(subject)
    x = torch.ones(2, 4)
    for _ in range(1 + warm):
        result, counts = compiled(x)
        torch.testing.assert_close(result, holder.net(x))
        assert counts == (True, 1, 1, 1)
    assert thunder.cache_misses(compiled) == 1
    del holder.net
    assert reference() is None and not table and not members
    result, counts = compiled(x)
    torch.testing.assert_close(result, x)
    assert counts == (False, 0, 0, 0)


def test_a_compiled_model_is_freed_with_all_that_it_was_made_of() -> None:
    model = Net()
    references = parts_of(model)
    compiled = jit(model)
    for _ in range(3):
        compiled(torch.ones(2, 4)).sum().backward()
    compiled.zero_grad()
    del compiled, model
    gc.collect()
    assert count_alive(references) == 0


def test_what_was_let_go_is_still_described() -> None:
    holder = types.SimpleNamespace(model=Net())
    compiled = jit(lambda x: holder.model(x))
    compiled(torch.ones(2, 4))
    before = thunder.last_prologue(compiled)
    assert "holder" in before and "model.sizes[0] == 1" in before
    holder.model = Net()
    gc.collect()
    assert thunder.last_prologue(compiled) == before
    assert len(thunder.last_traces(compiled)) > 0
    compiled(torch.ones(2, 4))
    assert any("is the same object" in guard for guard in thunder.compile_stats(compiled).failed_guards)


def test_an_object_that_is_replaced_again_and_again_is_followed_by_its_place() -> None:
    holder = types.SimpleNamespace(node=Node())
    compiled = jit(lambda x: x * holder.node.scale)
    for _ in range(6):
        holder.node = Node()
        gc.collect()
        torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 2.0))
    assert thunder.cache_misses(compiled) == 2


def test_the_first_program_for_every_call_keeps_what_it_needs() -> None:
    holder = types.SimpleNamespace(model=Net())
    compiled = jit(lambda x: holder.model(x), cache="same input")
    x = torch.ones(2, 4)
    expected = compiled(x)
    holder.model = Net()
    gc.collect()
    torch.testing.assert_close(compiled(x), expected)
