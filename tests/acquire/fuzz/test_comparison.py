"""The comparison of two object graphs."""

from __future__ import annotations

import collections
import types

import pytest
import torch

from tests.acquire.fuzz.comparison import Difference, compare


def aliased(count: int) -> list[list[int]]:
    shared: list[int] = []
    return [shared] * count


def tensor_with_view(shared: bool) -> list[torch.Tensor]:
    base = torch.zeros(4)
    return [base, base[:2] if shared else torch.zeros(2)]


@pytest.mark.parametrize(
    "a, b",
    [
        (1, True), (1, 1.0), (0.0, -0.0), ("a", b"a"), (None, False), ([1], (1,)), ([1, 2], [2, 1]), ([1], [1, 1]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({"a": 1}, {"a": True}), ({1: 0}, {True: 0}), ({1}, {2}), ({1}, {True}),
        (aliased(2), [[], []]), ([[], []], aliased(2)), (tensor_with_view(True), tensor_with_view(False)),
        (tensor_with_view(False), tensor_with_view(True)), (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.ones(2)), (torch.zeros(2), torch.zeros(1, 2)), (torch.zeros(2, requires_grad=True), torch.zeros(2)),
        (torch.zeros(2), torch.nn.Parameter(torch.zeros(2), requires_grad=False)), (torch.zeros(2, 2), torch.zeros(2, 2).t()),
        (collections.deque([1]), [1]), (collections.deque([1], 2), collections.deque([1], 3)),
        (collections.defaultdict(list), collections.defaultdict(set)), (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (torch.relu, torch.neg), (list, dict), (slice(1), slice(2)), ((1, [2]), (1, [3])),
    ],
)  # fmt: skip
def test_differences_are_found(a, b):
    with pytest.raises(Difference):
        compare([a], [b])


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"), lambda: aliased(3), lambda: tensor_with_view(True), lambda: {"a": {1, "b"}, 2.5: (None, [1])},
        lambda: collections.OrderedDict(a=1), lambda: bytearray(b"a"), lambda: torch.nn.Sequential(torch.nn.Tanh()),
        lambda: torch.tensor([float("nan"), 1.0]), lambda: lambda x: x, lambda: torch.nn.ReLU(),
    ],
)  # fmt: skip
def test_equal_graphs_correspond(make):
    compare([make()], [make()])


def test_cycles_end():
    first: list[object] = []
    first.append(first)
    second: list[object] = []
    second.append(second)
    compare(first, second)
