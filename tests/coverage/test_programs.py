"""Random programs run in eager, are reproducible by number, and shrink to what fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunder.coverage.program_generator import Program, generate_program
from thunder.coverage.subjects import Eager, Subject
from thunder.coverage.suites.programs import check_values, reduce_program


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_program_runs_in_eager_twice_alike(source):
    check_values(generate_program(source, "drawn program"), Eager())


def test_a_number_names_one_program():
    assert generate_program(random.Random(7), "p").source == generate_program(random.Random(7), "p").source
    assert generate_program(random.Random(7), "p").source != generate_program(random.Random(8), "p").source


def test_programs_cover_what_compilers_get_wrong():
    text = "".join(generate_program(random.Random(number), "p").source for number in range(400))
    for part in (
        "out=",
        "no_grad",
        ".expand(",
        "[None]",
        "requires_grad_",
        "channels_last",
        "box[",
        "+= ",
        "torch.tensor([0",
    ):
        assert part in text, part


class ForgetsWrites(Subject):
    """A wrong compiler: in-place multiplication does nothing."""

    name = "forgets writes"

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def compiled(*args: Any) -> Any:
            original, torch.Tensor.mul_ = torch.Tensor.mul_, lambda self, other: self  # type: ignore[method-assign]
            try:
                return function(*args)
            finally:
                torch.Tensor.mul_ = original  # type: ignore[method-assign]

        return compiled


def test_a_failing_program_is_reduced_to_what_fails():
    program = Program(
        "p",
        ["x = torch.ones(3)"],
        ["x"],
        [],
        ["t1 = x + 1", "t2 = t1.sin()", "x.mul_(2)", "t3 = t2 + x"],
        "(t1, t3)",
    )
    reduced = reduce_program(program, check_values, ForgetsWrites())
    assert reduced.lines == ["x.mul_(2)"]
    assert reduced.result == "None"
