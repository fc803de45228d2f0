"""Sizes and numbers that only the values of tensors decide: programs that compute with them are whole programs."""

from __future__ import annotations

import pytest
import torch

import thunder
from thunder.errors import DataDependentError

torch.manual_seed(0)


def tokens_of_experts(x, weights):
    counts = torch.nn.functional.one_hot(x.argmax(-1), 4).sum(0).tolist()
    order = x.argmax(-1).argsort(stable=True)
    parts = x[order].split(counts)
    return torch.cat([part @ weight for part, weight in zip(parts, weights)])


def gathered_by_mask(x, weights):
    rows, columns = torch.where(x > 0)
    result = torch.zeros_like(x)
    result[rows, columns] += x[rows, columns] * weights[0, 0, 0]
    return result.sum(0), x[x > 0].mean()


def counted(x, weights):
    positive = x[x > 0]
    torch._check(positive.numel() <= 24, lambda: "too many")
    return positive.numel(), positive * positive.shape[0], (x > 0).nonzero().shape


def numbers(x, weights):
    count, largest = (x > 0).sum().item(), x.max().item()
    return count, largest, float(x.sum()), int((x > 0).sum()) // 2 + count, (x > 0).any().item(), x * largest + count


def sliced(x, weights):
    last = (x > 0).sum(1).argmax()
    x = x.clone()
    x[:last] = 0.0
    width = torch.IntTensor([3])
    return x[: last + 1], x[:, width[0] :]


def sizes_in_tensors(x, weights):
    count = (x > 0).sum()
    first, second = x.flatten().split([count, 24 - count])
    return first, torch.arange(count) * 2, torch.zeros(count, 2), second.reshape(-1, torch.tensor([1])[0])


def positions(x, weights):
    first = (x > 0).sum()
    places = torch.arange(first, first + 6) + torch.arange(end=first * 0 + 6, step=torch.tensor(1), start=0)
    return x * places[:, None], places


def places_in_sequences(x, weights):
    rows, columns = zip(*x.argsort(1)[:3, :2])
    result = x.clone()
    result[rows, columns] = 0.0
    return result, x[rows, columns], x[list(columns), 1:]


def repeated(x, weights):
    times = (x > 0).sum(1)
    return torch.repeat_interleave(x, times, dim=0) @ weights[0]


def checkpointed(x, weights):
    def block(x):
        return (x * x)[x.sum(-1) > 0] @ weights[0]

    inner = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
    return inner * inner.shape[0], x[x.sum(-1) > 0].shape[0]


def smallest(x, weights):
    count = (x > 0).sum().item()
    chosen = x.flatten().topk(min(count, 3)).values
    longest = max(part.shape[0] for part in (x, x[x > 0], x[x > 1]))
    return chosen, torch.tensor([count, x.argmax(), 7]) * max(count, 2, 5) + longest


PROGRAMS = [
    positions, smallest, sliced, sizes_in_tensors, tokens_of_experts, gathered_by_mask, counted, numbers, repeated,
    checkpointed, places_in_sequences,
]  # fmt: skip


def same(actual, expected):
    if isinstance(expected, torch.Tensor):
        assert type(actual) is type(expected) and actual.dtype is expected.dtype
        torch.testing.assert_close(actual, expected)
    elif isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected):
            same(a, b)
    else:
        assert type(actual) is type(expected) and actual == expected


@pytest.mark.parametrize("executors", [["eager"], None], ids=["eager", "default"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_values_and_gradients(program, executors):
    compiled = thunder.jit(program, executors=executors)
    for seed in range(4):  # other values, other sizes: the same program
        torch.manual_seed(seed)
        x, weights = torch.randn(6, 4, requires_grad=True), torch.randn(4, 4, 4, requires_grad=True)
        twins = [x.detach().clone().requires_grad_(), weights.detach().clone().requires_grad_()]
        expected, actual = program(x, weights), compiled(*twins)
        same(actual, expected)
        for result in (expected, actual):
            leaves = [leaf for leaf in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(leaf)]
            sum(leaf.sum() for leaf in leaves if leaf.requires_grad).backward()
        for mine, theirs in zip(twins, (x, weights)):
            same(mine.grad, theirs.grad)
    statistics = thunder.compile_stats(compiled)
    assert (statistics.cache_misses, statistics.plain_calls) == (1, 0)


def test_the_numbers_are_read_by_the_trace():
    compiled = thunder.jit(tokens_of_experts, executors=["eager"])
    compiled(torch.randn(6, 4), torch.randn(4, 4, 4))
    text = str(thunder.last_traces(compiled)[0])
    assert text.count("torch.Tensor.item(") == 4
    assert "torch._check(" in text  # the sizes of the parts add up


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: x if x[x > 0].numel() > 3 else -x,
        lambda x: sum(x * i for i in range((x > 0).sum().item())),
        lambda x: [0, 1, 2][(x > 0).sum().item()],
        lambda x: x if max((x > 0).sum().item(), 2) > 2 else -x,
    ],
)
def test_decisions_are_errors_that_name_the_line(decide):
    compiled = thunder.jit(decide, executors=["eager"])
    with pytest.raises(DataDependentError, match=r"test_unknown_numbers.py(.|\n)*remedy"):
        compiled(torch.randn(3, 4))
    assert thunder.compile_stats(compiled).plain_calls == 0


def test_a_decision_inside_of_a_try_is_an_error():
    def program(x):
        try:
            return x if (x > 0).sum().item() > 3 else -x
        except Exception:
            return x * 100

    with pytest.raises(DataDependentError):
        thunder.jit(program, executors=["eager"])(torch.randn(3, 4))


def test_a_check_that_fails_when_the_program_runs():
    def program(x):
        torch._check(x[x > 0].numel() > 0, lambda: "nothing is positive")
        return x + 1

    compiled = thunder.jit(program, executors=["eager"])
    same(compiled(torch.ones(3)), torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="nothing is positive"):
        compiled(-torch.ones(3))


def test_a_mask_of_one_element_is_no_number():
    def seen(images, masks):
        return torch.cat([image[mask] for image, mask in zip(images, masks)], 0)

    images = torch.randn(2, 1, 3)
    compiled = thunder.jit(seen, executors=["eager"])
    for masks in (torch.tensor([[True], [True]]), torch.tensor([[True], [False]])):
        same(compiled(images, masks), seen(images, masks))
