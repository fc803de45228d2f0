"""Convolutions of patches as matrix products: values, gradients, and the convolutions that are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thunder
from thunder.kernels import kernel_mode


class Embedding(nn.Module):
    """The first layer of a vision transformer."""

    def __init__(self, convolution, is_permuted=False):
        super().__init__()
        self.convolution, self.is_permuted = convolution, is_permuted
        self.first = nn.Parameter(torch.randn(1, 1, convolution.out_channels))

    def forward(self, pixels):
        flat = self.convolution(pixels).flatten(2)
        patches = flat.permute(0, 2, 1) if self.is_permuted else flat.transpose(1, 2)
        return torch.cat((self.first.expand(pixels.shape[0], -1, -1), patches), dim=1)


class OnePatch(nn.Module):
    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, pixels):
        return self.convolution(pixels).view(-1, self.convolution.out_channels)


class Image(nn.Module):
    """The convolution's result as an image, which has to keep its memory format."""

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, pixels):
        return self.convolution(pixels).flatten(2), self.convolution(pixels)


def is_replaced(compiled) -> bool:
    traces = [trace for trace in thunder.last_traces(compiled) if trace.history[0].startswith("acquired")]
    return not any(op.name.startswith("conv") for op in traces[-1].ops)


CASES = {
    "image": (Embedding(nn.Conv2d(3, 5, 4, 4)), (2, 3, 8, 12), True),
    "without bias": (Embedding(nn.Conv2d(3, 5, (2, 4), (2, 4), bias=False), is_permuted=True), (2, 3, 8, 12), True),
    "sound, one patch": (OnePatch(nn.Conv1d(3, 5, 4, stride=4)), (2, 3, 4), True),
    "video": (Embedding(nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4))), (2, 3, 4, 8, 8), True),
    "one patch": (OnePatch(nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4))), (7, 3, 2, 4, 4), True),
    "overlapping": (Embedding(nn.Conv2d(3, 5, 4, 2)), (2, 3, 8, 12), False),
    "padded": (Embedding(nn.Conv2d(3, 5, 4, 4, padding=2)), (2, 3, 8, 12), False),
    "padded by name": (Embedding(nn.Conv2d(3, 5, 1, padding="same")), (2, 3, 8, 12), False),
    "remainder": (Embedding(nn.Conv2d(3, 5, 4, 4)), (2, 3, 9, 12), False),
    "groups": (Embedding(nn.Conv2d(4, 8, 4, 4, groups=2)), (2, 4, 8, 8), False),
    "dilated": (Embedding(nn.Conv2d(3, 5, 2, 2, dilation=2)), (2, 3, 8, 12), False),
    "an image as the result": (Image(nn.Conv2d(3, 5, 4, 4)), (2, 3, 8, 12), False),
}


@pytest.mark.parametrize("name", list(CASES))
def test_values_and_gradients(name):
    module, shape, replaced = CASES[name]
    torch.manual_seed(0)
    pixels = torch.randn(shape, requires_grad=True)
    with kernel_mode("always"):
        compiled = thunder.jit(module, executors=["aten"])
        out = compiled(pixels)
    assert is_replaced(compiled) == replaced
    expected = module(pixels)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    leaves = [pixels, *module.parameters()]
    outs, exact = (value if isinstance(value, tuple) else (value,) for value in (out, expected))
    found = torch.autograd.grad([value.square().sum() for value in outs], leaves)
    wanted = torch.autograd.grad([value.square().sum() for value in exact], leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    if not replaced:
        assert [value.stride() for value in outs] == [value.stride() for value in exact]
