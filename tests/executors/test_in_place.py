"""Inputs that are changed in place are written to directly where nothing can tell."""

from __future__ import annotations

import pytest
import torch

import thunder


@torch.library.custom_op("thunder_tests::write_two", mutates_args=("first", "second"))
def write_two(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    first.index_copy_(0, index, x)
    second.index_copy_(0, index, x * 2)
    return x + 1


@write_two.register_fake
def _(x, first, second, index):
    return torch.empty_like(x)


INDEX = torch.tensor([2])


def copy_by_index(x, cache, other):
    cache.index_copy_(0, INDEX, x)
    return cache.sum()


def assign_by_index(x, cache, other):
    cache[INDEX] = x
    return cache * 2


def write_twice(x, cache, other):
    cache.index_copy_(0, INDEX, x)
    cache[1:2] = x
    return cache.sum()


def custom(x, cache, other):
    return torch.ops.thunder_tests.write_two(x, cache, other, INDEX) + cache[2] + other[2]


def read_before(x, cache, other):
    total = cache.sum()
    cache.index_copy_(0, INDEX, x)
    return total + cache.sum()


def written_from_itself(x, cache, other):
    cache[:2] = cache[2:4] + 1
    return cache.sum()


def returned(x, cache, other):
    cache.index_copy_(0, INDEX, x)
    return cache


def both(x, cache, other):
    cache.index_copy_(0, INDEX, x)
    other.copy_(cache)
    return other.sum()


PROGRAMS = [copy_by_index, assign_by_index, write_twice, custom, read_before, written_from_itself, returned, both]
IN_PLACE = {copy_by_index: 1, assign_by_index: 1, custom: 2}


def operations(compiled):
    final = thunder.last_traces(compiled)[-1]
    return [op.name for trace in (final, *(region.trace for region in final.regions())) for op in trace.ops]


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda function: function.__name__)
def test_programs(function):
    with torch.no_grad():
        compiled = thunder.jit(function, executors=["aten"])
        ours, wanted = (torch.arange(5.0), torch.zeros(5)), (torch.arange(5.0), torch.zeros(5))
        for number in range(3):
            x = torch.full((1,), 10.0 + number)
            torch.testing.assert_close(compiled(x, *ours), function(x, *wanted))
            torch.testing.assert_close(ours, wanted)
    copies = operations(compiled).count("copy_.default")
    changed = sum(any(var is cache for cache in ours) for var in ours) if function in (custom, both) else 1
    assert copies == changed - IN_PLACE.get(function, 0) or function not in IN_PLACE
