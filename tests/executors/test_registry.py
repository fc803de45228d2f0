"""Executors by name."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lower"))
from comparison import compile_function

from thunder.errors import OptionError
from thunder.executors import Executor, executor_names, get_executor, register_executor, resolve_executors
from thunder.trace import Op


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(OptionError, match=r"unknown executor 'egaer'(.|\n)*eager"):
        resolve_executors(["egaer"])


def test_a_string_in_place_of_the_list_is_refused():
    with pytest.raises(OptionError, match=r"executors=\['eager'\]"):
        resolve_executors("eager")


def test_an_object_that_is_no_executor_is_refused():
    with pytest.raises(OptionError, match="is no executor"):
        resolve_executors([torch.relu])


def test_eager_is_added_at_the_end():
    class Nothing(Executor):
        name = "nothing"

    nothing = register_executor(Nothing())
    assert "nothing" in executor_names() and get_executor("nothing") is nothing
    assert [executor.name for executor in resolve_executors(["nothing"])] == ["nothing", "eager"]
    assert [executor.name for executor in resolve_executors(["eager", nothing, "eager"])] == [
        "eager",
        "nothing",
    ]
    assert not nothing.can_execute(Op(torch.relu)) and not nothing.fuses


def test_an_executor_without_a_name_is_refused():
    with pytest.raises(OptionError, match="has no name"):
        register_executor(Executor())


def test_an_executor_takes_torch_level_operations_before_they_are_lowered():
    class Doubling(Executor):
        name = "doubling"

        def can_execute(self, op: Op) -> bool:
            return op.target is torch.nn.functional.relu

        def implementation(self, op: Op):
            return as_softplus

    def as_softplus(value, inplace=False):
        return torch.nn.functional.softplus(value)

    def function(x):
        return torch.nn.functional.relu(x.sin()).cos()

    x = torch.randn(4)
    for executors in ([Doubling(), "eager"], [Doubling(), "aten"]):
        compiled, inputs = compile_function(function, x, executors=executors)
        torch.testing.assert_close(compiled.run(x)[0], torch.nn.functional.softplus(x.sin()).cos())
        assert "softplus" in str(compiled.forward_traces[1])


def test_the_backward_trace_of_an_eager_program_is_made_on_demand():
    compiled, _ = compile_function(lambda x: x.sin().sum(), torch.randn(4, requires_grad=True), executors=["eager"])
    assert not compiled.is_lowered and len(compiled.forward_traces) == 2
    (backward,) = compiled.backward_traces
    assert "aten.cos" in str(backward)
