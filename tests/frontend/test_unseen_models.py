"""Models as people write them, with everything that Python and PyTorch allow: forward, backward, and other sizes.

Compared with eager: results, gradients, buffers, and what `forward` leaves on the model.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thunder


class AttentionInPlace(nn.Module):
    """Scores that are divided, masked and overwritten in place."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2)
        scores /= math.sqrt(4)
        scores += torch.full((length, length), float("-inf")).triu_(1)
        scores[..., 0, 0] = 0.5
        scores[:, 1].masked_fill_(torch.eye(length, dtype=torch.bool).logical_not_().tril_(-2), -1e4)
        weights = scores.softmax(-1).clone()
        weights[..., -1] *= 0.5
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Experts(nn.Module):
    """Tokens gathered and scattered by what the router chose."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(8, 3, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 8)) for _ in range(3))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(flat).softmax(-1).topk(2, -1)
        out, mask = torch.zeros_like(flat), F.one_hot(chosen, 3).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            place, token = torch.where(mask[number])
            out.index_add_(0, token, expert(flat[token]) * weights[token, place, None])
        return out.view_as(x), torch.bincount(chosen.flatten(), minlength=3)


class Spectrum(nn.Module):
    """Complex numbers: FFT, products, polar form, views as real numbers."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 8, dtype=torch.cfloat))

    def forward(self, x):
        transformed = torch.fft.rfft(x, dim=1, norm="ortho") @ self.kernel
        turned = torch.polar(transformed.abs() + 1e-3, transformed.angle()) * torch.exp(1j * transformed.real)
        return torch.fft.irfft(turned, n=x.shape[1], dim=1, norm="ortho"), torch.view_as_real(turned).conj().sum(-1)


class Recurrent(nn.Module):
    """Cells in a loop over as many steps as there are, and a state that is kept for the next call."""

    def __init__(self):
        super().__init__()
        self.gru, self.lstm = nn.GRUCell(8, 5), nn.LSTMCell(5, 3)
        self.register_buffer("state", torch.zeros(2, 5))
        self.calls, self.shapes = 0, {}

    def forward(self, x):
        self.calls += 1
        hidden, pair, outputs = self.state[: x.shape[0]].clone(), None, []
        for step in x.unbind(1):
            hidden = self.gru(step, hidden)
            pair = self.lstm(hidden, pair)
            outputs.insert(0 if len(outputs) % 2 else len(outputs), pair[0])
        self.state[: x.shape[0]] = hidden.detach()
        self.shapes[tuple(x.shape)] = self.calls
        return torch.stack(outputs, 1), {"hidden": hidden, "calls": self.calls}


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    notes: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.notes.setdefault("rows", self.logits.shape[0])


class Doubled(nn.Module):
    """A `__call__` of its own around `nn.Module`'s."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.0, 8))

    def __call__(self, x, *args, **kwargs):
        return super().__call__(x * 2, *args, **kwargs) * 3

    def forward(self, x, bias=0):
        return x * self.scale + bias


def within_context(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        with self.context(kwargs.pop("tag", "plain")) as count:
            return function(self, *args, count=count, **kwargs)

    return wrapper


class Pythonic(nn.Module):
    """A decorator, a context manager, generators that are sent values, handled errors, `match`, a data class."""

    def __init__(self):
        super().__init__()
        self.doubled, self.events = Doubled(), []
        self.layers = nn.ModuleDict({"first": nn.Linear(8, 8), "second": nn.ModuleList([nn.Linear(8, 8)])})

    @contextlib.contextmanager
    def context(self, tag):
        self.events.append(f"in {tag}")
        try:
            yield len(self.events)
        finally:
            self.events.append(f"out {tag}")

    def steps(self, x):
        for layer in (self.layers["first"], *self.layers["second"]):
            factor = yield (x := layer(x).relu())
            if factor is not None:
                x = x * factor
        return x.sum()

    def delegate(self, x):
        yield (yield from self.steps(x))

    @within_context
    def forward(self, x, count=0):
        generator = self.delegate(x)
        outputs = [next(generator)]
        try:
            while True:
                outputs.append(generator.send(0.5))
        except StopIteration:
            pass
        try:
            x @ x.new_zeros(3, 3)
        except RuntimeError:
            outputs.append(self.doubled(x, bias=count))
        match outputs:
            case [first, *_, last]:
                return Output(first.tanh() + last, {"outputs": outputs, "count": f"{count:03d}"})


class Forces(nn.Module):
    """Gradients within the program, which are differentiated again."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            position = x if x.requires_grad else x.clone().requires_grad_()
            energy = self.energy(position).sum()
            (gradient,) = torch.autograd.grad(energy, position, create_graph=True)
        return energy, -gradient


MODELS = [AttentionInPlace, Experts, Spectrum, Recurrent, Pythonic, Forces]


def plain(value):
    """Nested results as lists, with the classes of what held them."""
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, plain(vars(value))]
    if isinstance(value, dict):
        return [type(value).__name__, [[str(key), plain(item)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [plain(item) for item in value]]
    return value.detach() if isinstance(value, torch.Tensor) else value


def tensors(value):
    """All tensors of a result."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def compared(a, b):
    """Fails where two plain values differ."""
    if isinstance(a, list):
        assert isinstance(b, list) and len(a) == len(b)
        for first, second in zip(a, b):
            compared(first, second)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b)
    else:
        assert a == b


def run(call, model, x):
    """What a call gives and leaves: result, gradients, buffers, attributes."""
    x = x.clone().requires_grad_()
    result = call(x)
    model.zero_grad()
    differentiable = [tensor for tensor in tensors(result) if tensor.requires_grad]
    sum(tensor.abs().sum() for tensor in differentiable).backward()
    gradients = [x.grad, *(parameter.grad for parameter in model.parameters())]
    kept = {name: value for name, value in vars(model).items() if name in ("calls", "shapes", "events")}
    return plain([result, gradients, dict(model.named_buffers()), kept])


@pytest.mark.parametrize("executors", [["eager"], ["aten"]], ids=["eager", "lowered"])
@pytest.mark.parametrize("make", MODELS)
def test_as_in_eager(make, executors):
    torch.manual_seed(0)
    model = make()
    twin = copy.deepcopy(model)
    compiled = thunder.jit(model, executors=executors)
    for x in (torch.randn(2, 5, 8), torch.randn(1, 7, 8), torch.randn(2, 5, 8)):
        compared(run(compiled, model, x), run(twin, twin, x))
    assert not thunder.compile_stats(compiled).plain_calls
