"""Runs one program in two identical worlds: plain Python, and the subject compiled.

Input: the text of a program (see `program.py`) and what compiles its subject.  Output: an `Outcome`.  Each world is
the module that the text makes; the worlds share nothing but the process, whose own state (environment variables,
default dtype, random numbers, identifiers of hooks) is put back between them.  After every round the result, the
exception and everything reachable from the two modules must be the same.
"""

from __future__ import annotations

import ctypes
import linecache
import os
import random
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from tests.acquire.fuzz.comparison import WORLD, Difference, compare, without_addresses

SAME, DIFFERENT = "same", "different"
ENVIRONMENT = ("FUZZ_MODE", "FUZZ_LEVEL", "FUZZ_SET")
"""The variables that programs use."""

SHARED_CLASSES = (torch.Tensor, torch.nn.Parameter, torch.nn.ReLU, torch.nn.Tanh, torch.nn.Identity, torch.nn.Linear)
"""Classes of both worlds that a program may get hold of and change."""

_getenv = ctypes.CDLL(None).getenv
_getenv.restype = ctypes.c_char_p

Compile = Callable[[Any], Callable[..., Any]]


@dataclass
class Outcome:
    """What became of a program.

    Attributes:
        status: "same" or "different".
        round: the last round.
        explanation: what differs.
        cause: an exception of the second world that the first did not raise.
        calls: calls that were compared.
        exceptions: calls that raised in the first world.
        refusals: what the compiler said when it could not compile the subject.
    """

    status: str
    round: int = 0
    explanation: str = ""
    cause: BaseException | None = None
    calls: int = 0
    exceptions: int = 0
    refusals: list[str] = field(default_factory=list)


@dataclass
class ProcessState:
    """State of the process that a program may read or change."""

    environment: dict[str, str]
    native_environment: tuple[bytes | None, ...]
    default_dtype: torch.dtype
    next_hook: int
    random: torch.Tensor
    python_random: Any
    grad_enabled: bool
    classes: tuple[dict[str, Any], ...]

    @staticmethod
    def now() -> ProcessState:
        return ProcessState(
            {name: value for name in ENVIRONMENT if (value := os.environ.get(name)) is not None},
            tuple(_getenv(name.encode()) for name in ENVIRONMENT),
            torch.get_default_dtype(),
            RemovableHandle.next_id,
            torch.get_rng_state(),
            random.getstate(),
            torch.is_grad_enabled(),
            tuple(dict(vars(kind)) for kind in SHARED_CLASSES),
        )

    def restore(self) -> None:
        for name in ENVIRONMENT:
            if name in self.environment:
                os.environ[name] = self.environment[name]
            else:
                os.environ.pop(name, None)
        torch.set_default_dtype(self.default_dtype)
        RemovableHandle.next_id = self.next_hook
        torch.set_rng_state(self.random)
        random.setstate(self.python_random)
        torch.set_grad_enabled(self.grad_enabled)
        for kind, content in zip(SHARED_CLASSES, self.classes):
            for name in [name for name in vars(kind) if name not in content]:
                delattr(kind, name)
            for name, value in content.items():
                if vars(kind).get(name, content) is not value:
                    setattr(kind, name, value)

    def observed(self) -> tuple[Any, ...]:
        """The part that two worlds must agree on."""
        numbers = (self.random.sum().item(), hash(self.python_random))
        return self.environment, self.native_environment, self.default_dtype, self.grad_enabled, numbers


def make_world(code: types.CodeType) -> types.ModuleType:
    """Executes a program as a module of its own."""
    world = types.ModuleType(WORLD)
    sys.modules[WORLD] = world  # dataclasses and enum look their module up
    exec(code, world.__dict__)
    return world


def compile_program(source: str) -> types.CodeType:
    """Compiles the text under a file name that `linecache` knows, for locations in errors and traces."""
    filename = f"<{WORLD}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return compile(source, filename, "exec")


def run_program(source: str, compile_subject: Compile, refusals: tuple[type[BaseException], ...] = ()) -> Outcome:
    """Runs the program in both worlds, round by round.

    Args:
        source: the program.
        compile_subject: makes the callable that the second world calls instead of its subject.
        refusals: exceptions with which the compiler says that it cannot compile the subject.  The call is then made
            in plain Python, and the comparison goes on: a refusal must leave nothing behind.
    """
    before = ProcessState.now()
    outer = sys.modules.get(WORLD)
    try:
        code = compile_program(source)
        plain = make_world(code)
        after_plain = ProcessState.now()
        before.restore()
        compiled = make_world(code)
        after_plain.restore()
        return _Run(plain, compiled, compile_subject(compiled.subject), refusals).rounds()
    finally:
        before.restore()
        sys.modules.pop(WORLD, None)
        if outer is not None:
            sys.modules[WORLD] = outer


class _Run:
    def __init__(
        self,
        plain: types.ModuleType,
        compiled: types.ModuleType,
        subject: Callable[..., Any],
        refusals: tuple[type[BaseException], ...],
    ) -> None:
        self.plain, self.compiled, self.subject, self.refusals = plain, compiled, subject, refusals
        self.outcome = Outcome(SAME)

    def rounds(self) -> Outcome:
        outcome = self.outcome
        count = sum(name.startswith("round_") for name in vars(self.plain))
        for outcome.round in range(count):
            torch.default_generator.manual_seed(outcome.round)
            random.seed(outcome.round)
            start = ProcessState.now()
            expected, expected_error = self.call(self.plain, self.plain.subject)
            expected_state = ProcessState.now()
            start.restore()
            found, found_error = self.call(self.compiled, self.subject)
            found_state = ProcessState.now()
            outcome.calls += 1
            outcome.exceptions += expected_error is not None
            try:
                _compare_errors(expected_error, found_error)
                compare([expected, self.plain], [found, self.compiled])
                first, second = expected_state.observed(), found_state.observed()
                if first != second:
                    raise Difference("state of the process", str(first), str(second))
            except Difference as difference:
                outcome.status, outcome.explanation, outcome.cause = DIFFERENT, str(difference), difference.cause
                break
            expected_state.restore()
        return outcome

    def call(self, world: types.ModuleType, subject: Callable[..., Any]) -> tuple[Any, BaseException | None]:
        """One round in one world: (result, error)."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return subject(*args, **kwargs)
            except self.refusals as refusal:
                self.outcome.refusals.append(f"{type(refusal).__name__}: {refusal}")
                return world.subject(*args, **kwargs)

        try:
            return vars(world)[f"round_{self.outcome.round}"](call), None
        except Exception as error:  # the program's own errors are part of what is compared, whatever they are
            return None, error


def _compare_errors(expected: BaseException | None, found: BaseException | None) -> None:
    if type(expected) is not type(found) and not _same_generated_class(expected, found):
        raise Difference("exception", repr(expected), repr(found), found)
    if expected is not None and found is not None and without_addresses(str(expected)) != without_addresses(str(found)):
        if not isinstance(expected, RuntimeError):  # PyTorch words some of its errors by kernel
            raise Difference("message of the exception", repr(expected), repr(found), found)


def _same_generated_class(expected: Any, found: Any) -> bool:
    """Both worlds define their own exception classes."""
    return type(expected).__qualname__ == type(found).__qualname__ and type(expected).__module__ == WORLD
