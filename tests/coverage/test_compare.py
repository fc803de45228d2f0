"""Comparison finds every kind of difference, and nothing where there is none."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from thunder.coverage.compare import compare, largest_difference
from thunder.coverage.recorder import WrongResult


class Cache:
    """Stands for an object with tensors in its attributes."""

    def __init__(self, keys: torch.Tensor, seen: int) -> None:
        self.layers = [keys]
        self.seen = seen


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    cache: Cache | None = None


def result() -> Result:
    return Result(torch.ones(2, 3), Cache(torch.arange(4.0), 4))


def test_equal_structures_agree():
    compare({"a": [result(), None, "text"]}, {"a": [result(), None, "text"]})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda r: r.logits.add_(1), "logits"),
        (lambda r: r.cache.layers[0].mul_(2), "layers"),
        (lambda r: setattr(r.cache, "seen", 5), "seen"),
        (lambda r: r.cache.layers.append(torch.zeros(1)), "layers"),
        (lambda r: setattr(r, "logits", r.logits.double()), "dtype"),
        (lambda r: setattr(r, "logits", r.logits[:1]), "shape"),
        (lambda r: setattr(r, "logits", None), "logits"),
    ],
)
def test_differences_are_named(change, where):
    actual = result()
    change(actual)
    with pytest.raises(WrongResult, match=where):
        compare(actual, result())


def test_strides_count_when_asked():
    actual, expected = torch.ones(2, 3).t().contiguous().t(), torch.ones(2, 3)
    compare(actual, expected)
    with pytest.raises(WrongResult, match="strides"):
        compare(actual, expected, strides=True)


def test_strides_of_single_elements_do_not_count():
    compare(torch.ones(3, 1).t(), torch.ones(1, 3), strides=True)


def test_special_values():
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    assert largest_difference(special.clone(), special) == 0.0
    assert largest_difference(torch.nan_to_num(special), special) == float("inf")
    compare(float("nan"), float("nan"))


def test_tolerance_is_relative_to_the_largest_magnitude():
    expected = torch.tensor([1000.0, 0.0])
    compare(expected + 0.05, expected)
    with pytest.raises(WrongResult, match="values"):
        compare(expected + 0.5, expected)


def test_integers_are_exact():
    with pytest.raises(WrongResult, match="values"):
        compare(torch.tensor([10**9 + 1]), torch.tensor([10**9]))


def test_a_true_is_not_a_one():
    with pytest.raises(WrongResult):
        compare([1], [True])
