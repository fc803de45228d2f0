"""Suite `programs`: 20,000 random tensor programs, reproducible by number, compared with eager.

A row is a block of fifty programs. Cases: `values` compares results and arguments after the call (values, shapes,
dtypes, strides, `requires_grad`) and how they share memory with each other, for a first and a second call;
`gradient` compares the gradients of all leaves. A failing program is reduced to the statements that it takes to
fail, and stands in the row's notes as a complete text.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.coverage.compare import compare, tensors
from thunder.coverage.device import creating_on, seed
from thunder.coverage.program_generator import Program, generate_program
from thunder.coverage.recorder import NotRunnableInEager, Recorder, WrongResult
from thunder.coverage.subjects import Subject
from thunder.coverage.suite import Suite

PROGRAMS = 20_000
BLOCK = 50

Check = Callable[[Program, Subject], None]


class ProgramsSuite(Suite):
    """All programs."""

    name = "programs"
    row_timeout = 1200.0
    case_timeout = 60.0
    rows_of_a_process = 10

    def row_names(self) -> Sequence[str]:
        return [f"{first:05d}-{first + BLOCK - 1:05d}" for first in range(0, PROGRAMS, BLOCK)]

    def warm(self) -> None:
        warnings.filterwarnings("ignore")

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        first, _, last = row.partition("-")
        for number in range(int(first), int(last or first) + 1):
            run_program(number, subject, recorder, self.device)


def run_program(number: int, subject: Subject, recorder: Recorder, device: str) -> None:
    """Both cases of one program."""
    program = generate_program(random.Random(number), f"program {number}")
    checks: tuple[tuple[str, Check], ...] = (
        ("values", functools.partial(check_values, device=device)),
        ("gradient", functools.partial(check_gradient, device=device)),
    )
    for phase, check in checks:
        if not recorder.wants(phase) or recorder.skips_next():
            continue
        with recorder.case(phase, str(number)) as case:
            check(program, subject)
        subject.reset()
        if not case.passed and not case.not_runnable:
            reduced = reduce_program(program, check, subject)
            recorder.note(**{f"{phase} {number}": reduced.source})


def loaded(program: Program, device: str) -> dict[str, Any]:
    """A program's two functions; its inputs are made on the device, and what it makes itself where it says."""
    namespace = program.load()
    make_inputs = namespace["inputs"]

    def inputs() -> Any:
        with creating_on(device):
            return make_inputs()

    return {**namespace, "inputs": inputs}


class Call:
    """One call of a program: its arguments, what became of them, and its result."""

    def __init__(self, program: Program, function: Callable[..., Any] | None, namespace: dict[str, Any]) -> None:
        self.arguments, self.leaves = namespace["inputs"]()
        self.before = tensors(self.arguments)
        seed(1)
        self.result = (function or namespace["program"])(*self.arguments)

    def compare(self, expected: Call) -> None:
        """Values, strides and sharing of everything that can be seen after the call."""
        compare(self.result, expected.result, "result", strides=True)
        compare(self.arguments, expected.arguments, "arguments", strides=True)
        ours, theirs = self.visible(), expected.visible()
        for index, (actual, reference) in enumerate(zip(ours, theirs)):
            for attribute in ("requires_grad", "is_leaf"):
                if getattr(actual, attribute) != getattr(reference, attribute):
                    raise WrongResult(f"tensor {index}: {attribute} is {getattr(actual, attribute)}, unlike eager")
        if sharing(ours) != sharing(theirs):
            raise WrongResult(f"sharing of memory differs: {first_difference(sharing(ours), sharing(theirs))}")

    def visible(self) -> list[torch.Tensor]:
        """Tensors that the caller had before, and those of the result."""
        return [*self.before, *tensors(self.arguments), *tensors(self.result)]


def sharing(visible: Sequence[torch.Tensor]) -> list[tuple[int, int, int]]:
    """For each tensor: the first that is the same object, the first in the same storage, the offset."""
    relations = []
    for tensor in visible:
        same = next(index for index, other in enumerate(visible) if other is tensor)
        storage = next(index for index, other in enumerate(visible) if storage_of(other) == storage_of(tensor))
        relations.append((same, storage, int(tensor.storage_offset())))
    return relations


def storage_of(tensor: torch.Tensor) -> int:
    """Identity of a tensor's storage."""
    return tensor.untyped_storage()._cdata


def first_difference(actual: Sequence[tuple[int, int, int]], expected: Sequence[tuple[int, int, int]]) -> str:
    """In words, where two lists of relations differ."""
    for index, (ours, theirs) in enumerate(zip(actual, expected)):
        if ours != theirs:
            return f"tensor {index} is (object, storage, offset) {ours}, in eager {theirs}"
    return "another number of tensors"


def reference(program: Program, namespace: dict[str, Any]) -> Call:
    """What eager does; a program that it cannot run says nothing."""
    try:
        call = Call(program, None, namespace)
        for tensor in call.visible():
            assert tensor.requires_grad in (True, False) and tensor.is_leaf in (True, False)  # may raise
        return call
    except Exception as error:  # whatever eager raises here makes the case one that says nothing
        raise NotRunnableInEager(f"{type(error).__name__}: {error}") from error


def check_values(program: Program, subject: Subject, device: str = "cpu") -> None:
    """Two calls of the compiled program against two of eager."""
    namespace = loaded(program, device)
    expected = reference(program, namespace)
    compiled = subject.compile(namespace["program"])
    Call(program, compiled, namespace).compare(expected)
    Call(program, compiled, namespace).compare(expected)
    subject.require_compiled(compiled)


def check_gradient(program: Program, subject: Subject, device: str = "cpu") -> None:
    """Gradients of all leaves."""
    namespace = loaded(program, device)
    expected = gradients(reference(program, namespace), in_eager=True)
    compiled = subject.compile(namespace["program"])
    actual = gradients(Call(program, compiled, namespace), in_eager=False)
    subject.require_compiled(compiled)
    compare(actual, expected, "gradient", looser=10.0)


def gradients(call: Call, in_eager: bool) -> list[torch.Tensor | None]:
    """Gradients of an uneven sum of all results and arguments that have a graph."""
    outputs = [tensor for tensor in call.visible() if tensor.requires_grad and not tensor.is_leaf]
    if not outputs or not call.leaves:
        raise NotRunnableInEager("no output has a gradient")
    cotangents = [torch.linspace(0.5, 1.5, out.numel() + 1)[1:].reshape(out.shape).to(out) for out in outputs]
    try:
        return list(torch.autograd.grad(outputs, call.leaves, cotangents, allow_unused=True))
    except RuntimeError as error:
        if in_eager:
            raise NotRunnableInEager(f"backward: {error}") from error
        raise


def reduce_program(program: Program, check: Check, subject: Subject) -> Program:
    """Simplify the result and leave out statements as long as the program still fails."""
    smaller = copy.deepcopy(program)
    variables = sorted({line.partition(" = ")[0] for line in program.lines if line.startswith("t") and " = " in line})
    for result in ("None", *program.parameters, *variables):
        candidate = dataclasses.replace(smaller, result=result)
        if fails(candidate, check, subject):
            smaller = candidate
            break
    changed = True
    while changed:
        changed = False
        for index in reversed(range(len(smaller.lines))):
            candidate = copy.deepcopy(smaller)
            del candidate.lines[index]
            if candidate.lines and fails(candidate, check, subject):
                smaller, changed = candidate, True
    return smaller


def fails(program: Program, check: Check, subject: Subject) -> bool:
    """True when the subject, and not eager, is at fault."""
    subject.reset()
    try:
        check(program, subject)
    except NotRunnableInEager:
        return False
    except SyntaxError:
        return False  # a block lost its only statement
    except Exception:  # any other failure of the subject is one
        return True
    return False


SUITE = ProgramsSuite()
