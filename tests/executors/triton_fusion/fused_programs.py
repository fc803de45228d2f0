"""Programs whose regions become kernels: the typical ones, and random ones.

Each row: name -> (function, its arguments).  Sizes are small: Triton's interpreter runs them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

BF16, F32 = torch.bfloat16, torch.float32
Program = tuple[Callable[..., Any], list[Any]]


def tensor(*shape: int, dtype: torch.dtype = BF16, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_(grad)


def rms_norm(x, residual, weight):
    hidden = x + residual
    wide = hidden.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (wide * scale).to(x.dtype), hidden


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotary(query, key, cos, sin):
    query = query.view(2, 6, 4, 16).transpose(1, 2)
    key = key.view(2, 6, 2, 16).transpose(1, 2)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return query * cos + rotate_half(query) * sin, key * cos + rotate_half(key) * sin


def causal_softmax(x):
    position = torch.arange(x.shape[-1])
    return torch.where(position[:, None] >= position[None, :], x, float("-inf")).softmax(-1)


def standardised(x):
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


def ignoring_labels():
    return torch.where(torch.arange(24).view(3, 8) % 3 == 0, -100, torch.randint(0, 100, (3, 8)))


def token_loss(logits, labels):
    labels = F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
    return F.cross_entropy(logits.float().view(-1, 100), labels.view(-1), ignore_index=-100)


def overwritten(x, y):
    """Of what is copied over, as of what a fill is like, only the layout matters: no kernel need compute it."""
    plain = x.detach()
    state = torch.zeros(6, 4, dtype=x.dtype)
    state.copy_(torch.cat((plain[:, :2], plain), 1)[:, -4:])
    frequencies = (plain * 2).view(2, 3, 8).transpose(1, 2)
    first = frequencies[0]
    first[1:7:3] = frequencies[1, 1:7:3]
    return torch.mm(state, y), torch.mm(torch.full_like((x[:, :4] * 3).t(), 3.0), x) * y.sum(), first


def programs() -> dict[str, Program]:
    """The typical regions."""
    torch.manual_seed(0)
    return {
        "pointwise": (lambda a, b: torch.sin(a * b + 1.0) * a, [tensor(33, 40), tensor(40)]),
        "mixed dtypes": (lambda a, b, c: a * b + c.to(BF16), [tensor(9, 7), tensor(9, 7, dtype=F32), tensor(7)]),
        "two outputs": (lambda a, b: (torch.exp(a) + b, torch.exp(a) * b), [tensor(9, 7), tensor(9, 7)]),
        "rms_norm": (rms_norm, [tensor(3, 4, 72), tensor(3, 4, 72), tensor(72)]),
        "rotary": (
            rotary,
            [tensor(2, 6, 64), tensor(2, 6, 32), tensor(1, 6, 16, grad=False), tensor(1, 6, 16, grad=False)],
        ),
        "swiglu": (lambda gate, up: F.silu(gate) * up, [tensor(16, 72), tensor(16, 72)]),
        "geglu": (lambda gate, up: F.gelu(gate, approximate="tanh") * up, [tensor(16, 72), tensor(16, 72)]),
        "bias and gelu": (lambda x, bias: F.gelu(x + bias) * 1.5, [tensor(16, 72), tensor(72)]),
        "layer_norm": (
            lambda x, r, w, b: F.layer_norm(x + r, (72,), w, b),
            [tensor(3, 4, 72), tensor(3, 4, 72), tensor(72), tensor(72)],
        ),
        "layer_norm float32": (
            lambda x, w, b: F.layer_norm(x, (72,), w, b) * 2,
            [tensor(3, 4, 72, dtype=F32), tensor(72, dtype=F32), tensor(72, dtype=F32)],
        ),
        "group_norm": (
            lambda x, w, b: F.silu(F.group_norm(x, 2, w, b)),
            [tensor(3, 4, 5, 6, dtype=F32), tensor(4, dtype=F32), tensor(4, dtype=F32)],
        ),
        "softmax with mask": (
            lambda x, mask: F.softmax(x * 0.125 + mask, -1),
            [tensor(2, 3, 4, 50), tensor(2, 1, 1, 50, grad=False)],
        ),
        "causal softmax": (causal_softmax, [tensor(2, 8, 8)]),
        "softmax of long rows": (lambda x: F.softmax(x.float(), -1) * 2, [tensor(2, 20000)]),
        "layer_norm of long rows": (lambda x, w: F.layer_norm(x, (17000,), w) * 2, [tensor(2, 17000), tensor(17000)]),
        "cross_entropy": (lambda x, y: F.cross_entropy(x.float(), y), [tensor(12, 300), torch.randint(0, 300, (12,))]),
        "loss of tokens": (token_loss, [tensor(3, 8, 100), ignoring_labels()]),
        "sum of all": (lambda x: (x * x).sum(), [tensor(100, 1000)]),
        "mean of all": (lambda x: (x * x).mean(), [tensor(100, 256)]),
        "sum of columns": (lambda x, y: (x * y).sum((0, 1)), [tensor(8, 64, 40), tensor(8, 64, 40)]),
        "sum of a middle axis": (lambda x: (x * 2).sum(1) + 1, [tensor(4, 9, 10)]),
        "largest": (lambda x: x * 2 - (x * 2).amax(-1, keepdim=True), [tensor(6, 50)]),
        "standardised": (standardised, [tensor(6, 50)]),
        "transposed": (lambda x, y: (x.t() * 2 + y).contiguous(), [tensor(40, 30), tensor(30, 40)]),
        "strided": (lambda x, y: x[:, ::2] * y[::3, 1:-1] + 1, [tensor(4, 20), tensor(12, 12)]),
        "reshaped": (lambda x: x.view(3, 4, 5).permute(2, 0, 1).reshape(15, 4) * 2 + 1, [tensor(12, 5)]),
        "patches of images": (
            lambda x: x.view(2, 3, 16, 16, 22, 16).permute(0, 2, 4, 1, 3, 5).reshape(704, 768),
            [tensor(2, 3, 256, 352)],
        ),
        "reshaped unevenly": (lambda x, y: (x * 2).view(5, 3) + y, [tensor(3, 5), tensor(5, 3)]),
        "flipped": (lambda x: x.flip(1) * 2 + x, [tensor(4, 6)]),
        "embedding": (
            lambda i, w, p: F.embedding(i, w) + p,
            [torch.randint(0, 50, (4, 8)), tensor(50, 72), tensor(8, 72)],
        ),
        "few rows": (lambda i, w: F.embedding(i, w), [torch.randint(0, 50, (1, 8)), tensor(50, 72, grad=False)]),
        "indexed": (lambda x, i: x[i] * 2 + 1, [tensor(10, 7), torch.tensor([-10, -1, 0, 3, 9])]),
        "gathered": (lambda x, i: x.gather(1, i) * 2 + 1, [tensor(5, 7), torch.randint(0, 7, (5, 3))]),
        "concatenated": (lambda x, y: torch.cat([x * 2, y + 1, x - y], 1) * 3, [tensor(6, 5), tensor(6, 5)]),
        "stacked": (lambda x, y: torch.stack([x * 2, y + 1], -1).flatten(-2) * 3, [tensor(6, 5), tensor(6, 5)]),
        "padded": (lambda x: F.pad(x * 2, (1, 2), value=3.0) + 1, [tensor(6, 5)]),
        "split": (lambda x: x.chunk(2, -1)[0].sigmoid() * x.chunk(2, -1)[1] + 1, [tensor(6, 10)]),
        "integers": (lambda i: ((i * 3 + 1) * (i != 3)).to(torch.int32) - 2, [torch.randint(0, 5, (4, 6))]),
        "truth values": (lambda x: (x > 0) & (x < 1) | x.isnan(), [tensor(5, 6, grad=False)]),
        "rows with a nan": (
            lambda x: (x.amax(-1), (x * 2).amax(-1)),
            [torch.where(torch.eye(4, 9) > 0, float("nan"), 1.0)],
        ),
        "overwritten": (overwritten, [tensor(6, 8, dtype=F32), tensor(4, 6, dtype=F32)]),
        "scalar tensors": (lambda x, s: x * s + s, [tensor(5, 6), tensor(1, dtype=F32).squeeze().detach()]),
    }


def random_program(seed: int) -> Program:
    """A random chain of pointwise operations, views and reductions over a few tensors."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    shape = [chosen.choice([1, 2, 3, 5, 8]) for _ in range(chosen.choice([2, 3]))]
    arguments = [tensor(*shape, dtype=F32)]
    for _ in range(2):
        kept = [size if chosen.random() < 0.7 else 1 for size in shape]
        arguments.append(tensor(*kept[chosen.choice([0, 0, 1]) :], dtype=F32))
    choices = [chosen.random() for _ in range(40)]

    def function(*values):
        draws = iter(choices)
        pool = list(values)
        for _ in range(9):
            value = pool[int(next(draws) * len(pool))]
            other = pool[int(next(draws) * len(pool))]
            kind = int(next(draws) * 12)
            pool.append(_step(kind, value, other, next(draws)))
        return tuple(pool[-2:])

    return function, arguments


def _step(kind: int, value: torch.Tensor, other: torch.Tensor, draw: float) -> torch.Tensor:
    """One operation; operands that do not fit are reduced to what does."""
    dim = int(draw * value.dim())
    if kind <= 2:
        try:
            shape = torch.broadcast_shapes(value.shape, other.shape)
        except RuntimeError:
            other, shape = other.mean(), value.shape
        if len(shape) > 4:
            return value
        return (value + other, value * other, torch.where(value > 0, value, other))[kind]
    if kind == 3:
        return torch.tanh(value) + 0.5
    if kind == 4:
        return value.sum(dim, keepdim=draw < 0.5) if value.dim() else value * 2
    if kind == 5:
        return value - value.mean(-1, keepdim=True) if value.dim() else value + 1
    if kind == 6:
        return value.transpose(0, dim) if value.dim() else value
    if kind == 7:
        return value.reshape(-1)
    if kind == 8:
        return torch.cat([value, -value], dim) if value.dim() and value.numel() < 500 else value.abs()
    if kind == 9:
        return value.softmax(dim) if value.dim() else value.exp()
    if kind == 10:
        return value.unsqueeze(dim) if value.dim() < 4 else value.flatten(0, 1)
    return value.narrow(dim, 0, (value.shape[dim] + 1) // 2) if value.dim() else value.neg()
