"""Memory layouts: outputs have the strides of eager PyTorch, and tensors whose elements overlap stay right."""

import pytest
import torch

import thunder
from thunder.lower.layouts import gradient_strides, is_dense, overlaps, same_layout


def output_that_is_expanded(x):
    return torch.broadcast_to(x * 3, (4, 2, 3))


def in_place_operation_with_another_layout(x):
    y = x.t().sin()
    y.cumsum_(1)
    return y


def in_place_operation_on_a_view(x):
    y = x.t().clone(memory_format=torch.preserve_format)
    y.t().cumsum_(1)
    return y


def two_outputs_of_one_memory(x):
    y = x.t().sin()
    y.cumsum_(1)
    return y, y[0]


def changed_through_an_expanded_value(x):
    y = (x * 2).detach()[0].expand(2, 3)  # the derivative is refused by PyTorch itself
    y.masked_fill_(y > 0, 1.0)
    return y


def changed_through_a_view_of_an_expanded_value(x):
    y = (x * 1e10)[:1].expand(4, 3)
    y[2].fill_(1.0)
    return y + 0


PROGRAMS = [
    output_that_is_expanded,
    in_place_operation_with_another_layout,
    in_place_operation_on_a_view,
    two_outputs_of_one_memory,
    changed_through_an_expanded_value,
    changed_through_a_view_of_an_expanded_value,
]


@pytest.mark.filterwarnings("ignore:Use of masked_fill_ on expanded tensors")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_strides_and_values(program, grad):
    x = torch.randn(2, 3)
    ours, theirs = (x.clone().requires_grad_(grad) for _ in range(2))
    found, expected = thunder.jit(program, executors=["aten"])(ours), program(theirs)
    for mine, other in zip(*(value if type(value) is tuple else (value,) for value in (found, expected)), strict=True):
        torch.testing.assert_close(mine, other, check_stride=True)
        if grad and other.requires_grad:
            tangent = torch.linspace(0.5, 1.5, other.numel()).reshape(other.shape)
            mine.backward(tangent, retain_graph=True)
            other.backward(tangent, retain_graph=True)
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_writing_into_an_argument_that_is_expanded():
    def program(x):
        x[-1] = 7
        return x.sum()

    compiled = thunder.jit(program, executors=["aten"])
    for _ in range(2):
        ours, theirs = (torch.zeros(1, 4).expand(3, 4) for _ in range(2))
        torch.testing.assert_close(compiled(ours), program(theirs))
        torch.testing.assert_close(ours, theirs)
    assert thunder.compile_stats(compiled).plain_calls == 0


def test_a_leaf_that_is_a_view_of_a_tensor_without_gradients():
    def program(x):
        with torch.no_grad():
            y = x[None]
        return y * 2, y.requires_grad

    x = torch.randn(3, 3).t().requires_grad_()
    (found, found_flag), (expected, expected_flag) = thunder.jit(program, executors=["eager"])(x), program(x)
    torch.testing.assert_close(found, expected)
    assert found_flag is expected_flag is found.requires_grad


@pytest.mark.parametrize(
    ("tensor", "overlapping", "dense"),
    [
        (torch.empty(3, 4), False, True),
        (torch.empty(3, 4).t(), False, True),
        (torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last), False, True),
        (torch.empty(3, 4)[:, ::2], False, False),
        (torch.empty(1, 4).expand(3, 4), True, False),
        (torch.empty(6).unfold(0, 3, 1), True, False),
        (torch.empty(0, 4).expand(3, 0, 4), False, True),
        (torch.empty(()), False, True),
    ],
)
def test_facts_about_strides(tensor, overlapping, dense):
    shape, stride = tensor.shape, tensor.stride()
    assert overlaps(shape, stride) is overlapping and is_dense(shape, stride) is dense
    gradient = torch.empty_strided(shape, gradient_strides(shape, stride))
    assert gradient.is_contiguous() or gradient.stride() == stride
    assert same_layout(shape, stride, stride)
