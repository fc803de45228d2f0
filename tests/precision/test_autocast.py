"""`thunder.autocast` gives the types and numbers of `torch.autocast`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thunder
from tests.precision.models import make, tokens
from thunder.errors import OptionError

PROGRAMS = {
    "16 bits": lambda x, w: (F.linear(x, w), x @ w, torch.bmm(x[None], w[None]), F.conv1d(x[None], w[:, :, None])),
    "32 bits": lambda x, w: (F.mse_loss(x @ w, w), torch.cosine_similarity(x @ w, w), F.cross_entropy(x @ w, x)),
    "widest": lambda x, w: (torch.stack([x @ w, x]), torch.cat([x @ w, w]), torch.addcmul(x @ w, x, w)),
    "in between": lambda x, w: (F.softmax(x @ w, -1), F.layer_norm(x @ w, (8,)), (x @ w).exp().sum(), F.gelu(x @ w)),
    "own block": lambda x, w: (_without_autocast(x, w), x @ w),
}


def _without_autocast(x, w):
    with torch.autocast("cpu", enabled=False):
        return x @ w


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("executors", [["eager"], ["aten"]], ids=str)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_operations(program, executors, dtype):
    torch.manual_seed(0)
    x, w = torch.randn(8, 8), torch.randn(8, 8)
    compiled = thunder.jit(program, transforms=[thunder.autocast(dtype)], executors=executors)
    with torch.autocast("cpu", dtype):
        expected = program(x, w)
    for mine, its in zip(compiled(x, w), expected):
        assert mine.dtype is its.dtype
        torch.testing.assert_close(mine, its)
    trace = thunder.last_traces(compiled)[1]
    assert "_enter_autocast('cpu'" in str(trace)


def test_training():
    grads = []
    for compile_it in (False, True):
        model = make().train()
        if compile_it:
            run = thunder.jit(model, transforms=[thunder.autocast("bf16")], executors=["aten"])
            loss = run(tokens()).float().square().mean()
        else:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(tokens()).float().square().mean()
        loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in grads[0].items():
        torch.testing.assert_close(grads[1][name], gradient, rtol=0.02, atol=1e-4)


def test_options():
    with pytest.raises(OptionError, match="autocast to torch.float32"):
        thunder.autocast(torch.float32)
    with pytest.raises(OptionError, match="known: cpu, cuda"):
        thunder.autocast(device_type="tpu")
    run = thunder.jit(nn.Linear(4, 2), transforms=[thunder.autocast(device_type="cuda")], executors=["eager"])
    assert run(torch.ones(1, 4)).dtype is torch.float32
