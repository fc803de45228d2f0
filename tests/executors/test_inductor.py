"""Regions compiled by Inductor: values, gradients, precision, what happens when it cannot."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "lower"))
from comparison import check, compile_function
from test_programs import Layers, tensor

from thunder import _torch_compat
from thunder.errors import ExecutorWarning
from thunder.executors import inductor, resolve_executors
from thunder.trace import Op, Region, Trace, Var, run_source, trace_constants

pytestmark = pytest.mark.filterwarnings("error::thunder.errors.ExecutorWarning")
needs_compiler = pytest.mark.skipif(inductor.unavailable_reason() is not None, reason="needs a C++ compiler")


def program(x, w, index):
    h = F.gelu(x @ w)
    h = F.layer_norm(h, (8,)) + F.embedding(index, w)
    h = F.dropout(h, 0.25)
    loss = F.cross_entropy(h, index)
    return loss, h.softmax(-1), h.argmax(-1)


@needs_compiler
@pytest.mark.parametrize("grad", [False, True])
def test_values_gradients_and_random_numbers(grad):
    index = torch.tensor([0, 3, 7, 1])
    compiled = check(
        program,
        tensor(4, 8, grad=grad),
        tensor(8, 8, grad=grad, seed=1),
        index,
        executors=["inductor"],
        rtol=1e-4,
        atol=1e-5,
    )
    regions = [region for trace in (compiled.forward_traces[-1],) for region in trace.regions()]
    # The dropout is eager's, between two regions.
    assert [region.executor for region in regions] == ["inductor", "inductor", "eager"]


@needs_compiler
def test_equal_layers_are_compiled_once_and_traces_run_when_pasted():
    model = Layers(3).eval()
    compiled, inputs = compile_function(model, tensor(2, 5, 8), executors=["inductor"])
    assert sum(region.executor == "inductor" for region in compiled.forward_traces[-1].regions()) == len(
        {region.name for region in compiled.forward_traces[-1].regions()}
    )
    with torch.no_grad():
        expected = compiled.run(*inputs)
        for trace in compiled.forward_traces:
            outputs = run_source(str(trace), trace.name, trace_constants(trace))(*inputs)
            torch.testing.assert_close(outputs[: len(expected)], expected)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_further_from_the_truth_than_eager(dtype):
    def function(x, w):
        h = F.rms_norm(x @ w, (64,))
        return F.silu(h) * h.sigmoid() + h.pow(3).mean(-1, keepdim=True)

    x, w = tensor(32, 64), tensor(64, 64, seed=1)
    truth = function(x.to(dtype).double(), w.to(dtype).double())
    compiled, _ = compile_function(function, x.to(dtype), w.to(dtype), executors=["inductor"])
    (ours,) = compiled.run(x.to(dtype), w.to(dtype))
    eager = function(x.to(dtype), w.to(dtype))
    assert (ours.double() - truth).abs().max() <= 1.5 * (eager.double() - truth).abs().max() + 1e-7


def test_without_a_compiler_there_is_one_warning_and_eager(monkeypatch):
    monkeypatch.setattr(_torch_compat, "cpp_compiler", lambda: None)
    monkeypatch.setattr(inductor, "_warned", False)
    with pytest.warns(ExecutorWarning, match="no C\\+\\+ compiler") as caught:
        for _ in range(2):
            compiled, _ = compile_function(program, tensor(4, 8), tensor(8, 8), torch.tensor([0, 1, 2, 3]),
                                           executors=["inductor"])  # fmt: skip
    assert len(caught) == 1
    torch.manual_seed(0)
    ours = compiled.run(tensor(4, 8), tensor(8, 8), torch.tensor([0, 1, 2, 3]))
    torch.manual_seed(0)
    torch.testing.assert_close(ours, program(tensor(4, 8), tensor(8, 8), torch.tensor([0, 1, 2, 3])))


@needs_compiler
def test_a_region_that_cannot_be_compiled_runs_by_itself(monkeypatch):
    def refuse(graph_module, examples):
        raise NotImplementedError("no such thing")

    monkeypatch.setattr(_torch_compat, "compile_with_inductor", refuse)
    with pytest.warns(ExecutorWarning, match="block_forward.*NotImplementedError: no such thing"):
        check(lambda x: x.sin().cos(), tensor(3), executors=["inductor"])


@needs_compiler
def test_kernels_that_do_not_go_together_are_compiled_one_by_one(monkeypatch):
    from thunder.executors import cpp_kernels

    monkeypatch.setattr(cpp_kernels, "library_source", lambda kernels: "no C++ at all")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExecutorWarning)
        compiled = check(lambda x: (x.sin() + 1).sum(), tensor(77), executors=["inductor"], rtol=1e-5, atol=1e-6)
    assert compiled.forward_traces[-1].regions()[0].executor == "inductor"


@needs_compiler
def test_inductor_takes_runs_of_operations_around_others():
    x, y, z = (Var(name, torch.empty(4)) for name in "xyz")

    def opaque(value):
        return value * 2

    ops = [Op(torch.ops.aten.sin.default, (x,), {}, y), Op(opaque, (y,), {}, z)]
    region = Region("mixed", Trace("mixed", [x], ops, (z,)))
    assert not inductor.can_execute(ops[1]) and inductor.can_execute(ops[0])
    assert resolve_executors(["inductor"])[-1].can_execute(ops[1])
    torch.testing.assert_close(region(torch.ones(4))[0], torch.ones(4).sin() * 2)


def test_several_random_operations_draw_the_numbers_that_eager_draws():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    names, parameters = zip(*layer.named_parameters())

    def program(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    check(program, tensor(2, 5, 8), *parameters, executors=("inductor",), seed=7)
