"""What goes wrong during a compilation leaves nothing behind; a compiled program needs no more memory than eager."""

import gc
import os
import signal
import threading

import pytest
import torch
import torch.nn as nn
from torch.profiler import ProfilerActivity, profile

import thunder
from thunder.errors import DataDependentError

FORWARD, TRAINING = "forward", "training"


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


class Interrupted(nn.Module):
    """Interrupts its own forward, as Ctrl-C does, as long as it is told to."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.steps: list[str] = []
        self.interrupt = True

    def forward(self, x):
        self.steps.append("begun")
        if self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner(x)


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also in a process that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_acquisition(executors):
    model = Interrupted(two_layers())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compiled = thunder.jit(model, executors=executors)
    x = torch.randn(6, 8)
    with pytest.raises(KeyboardInterrupt):
        compiled(x)
    torch.testing.assert_close(model.state_dict(), before)
    assert model.steps == []
    model.interrupt = False
    model.eval()
    torch.testing.assert_close(compiled(x), model.inner(x))
    assert model.steps == ["begun"]


def test_interrupted_transform(executors):
    interrupts = [KeyboardInterrupt()]

    def pass_on(trace):
        if interrupts:
            raise interrupts.pop()
        return trace

    model = two_layers().eval()
    compiled = thunder.jit(model, executors=executors, transforms=[pass_on])
    x = torch.randn(6, 8)
    with pytest.raises(KeyboardInterrupt):
        compiled(x)
    answers = []
    other = threading.Thread(target=lambda: answers.append(compiled(x)), daemon=True)
    other.start()
    other.join(60)
    torch.testing.assert_close(answers, [model(x)])


def test_a_failed_compilation_leaves_the_model_usable(executors):
    model = two_layers()

    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            y = self.inner(x)
            return y if y.sum() > 0 else -y

    deciding = Deciding()
    compiled = thunder.jit(deciding, executors=executors)
    mean = model[1].running_mean.clone()
    with pytest.raises(DataDependentError, match=r"test_robustness\.py"):
        compiled(torch.randn(6, 8))
    assert deciding.calls == 0
    torch.testing.assert_close(model[1].running_mean, mean)
    deciding(torch.randn(6, 8))
    assert deciding.calls == 1


@pytest.mark.parametrize("mode", [FORWARD, TRAINING])
def test_peak_memory_is_no_higher_than_eager(executors, mode):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(4)))
    compiled = thunder.jit(model, executors=executors)
    x = torch.randn(128, 64)

    def call(function):
        if mode == TRAINING:
            function(x).sum().backward()
        else:
            with torch.no_grad():
                function(x)

    def peak(function) -> int:
        call(function)
        model.zero_grad(set_to_none=True)
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            call(function)
        held = highest = 0
        for event in record.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        return highest

    assert 0 < peak(compiled) <= peak(model)
