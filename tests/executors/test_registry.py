"""Executors by name."""

import pytest
import torch

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
