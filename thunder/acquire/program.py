"""A program: what acquisition makes of one call, ready to be compiled and linked.

`Program.link(run)` joins prologue, compiled computation and epilogue to one Python function
`call(args, kwargs)`: it answers `(result,)`, or -1 when a guard failed, or the exception that the computation raised,
or a `PlainCall`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from thunder._torch_compat import tensor_guards
from thunder.acquire.function_guards import unchanged_functions
from thunder.acquire.guards import Check, Prologue
from thunder.acquire.sources import Source
from thunder.errors import ImpureCallError
from thunder.trace import Trace, compile_source

_GUARD_ERRORS = (LookupError, AttributeError, TypeError, ValueError)
_JOINED_CHECKS = 40


def _as_they_were(function: types.FunctionType, code: types.CodeType, defaults: Any, by_keyword: Any) -> bool:
    """Whether a function still has the code and the defaults that acquisition met."""
    return function.__code__ is code and function.__defaults__ is defaults and function.__kwdefaults__ is by_keyword


@dataclass(frozen=True)
class PlainCall:
    """What a program without a computation answers: the call has to be made in plain Python."""

    error: ImpureCallError


@dataclass
class Program:
    """The three parts of an acquired call.

    Attributes:
        prologue: guards and reads.
        computation: the tensor program, public torch calls.
        arguments: expressions of the computation's inputs, in order, in terms of the prologue.
        epilogue: statements after the computation, in terms of the prologue and the outputs `o0`, `o1`, ...
        returned: expression of the call's result.
        shares_storage: inputs share storage with each other.
        changed_inputs: positions of the inputs that the computation changes in place.
        symbolic: sizes or numbers are symbols.
        identity_checks: for guards on identity, by number, the place that they are about.
        value_checks: the same for guards on the values of tensors.
        plain_error: for a program that is no more than guards: why calls that pass them run in plain Python.
    """

    prologue: Prologue
    computation: Trace
    arguments: list[str]
    epilogue: list[str]
    returned: str
    output_count: int
    shares_storage: bool
    changed_inputs: list[int]
    identity_checks: dict[int, Source] = field(default_factory=dict)
    value_checks: dict[int, Source] = field(default_factory=dict)
    symbolic: bool = False
    plain_error: ImpureCallError | None = None

    def prologue_source(self) -> str:
        """The prologue as readable Python."""
        lines = ["def prologue(args, kwargs):"]
        for line in self.prologue.lines:
            comment = f"  # {self.prologue.describe(line.number)}" if isinstance(line, Check) else ""
            lines.append(f"    {line}{comment}")
        lines.append(f"    return ({', '.join(self.arguments)}{',' if len(self.arguments) == 1 else ''})")
        return "\n".join(lines) + "\n"

    def epilogue_source(self) -> str:
        """The epilogue as readable Python; names that it does not define are the prologue's."""
        outputs = "".join(f", o{index}" for index in range(self.output_count))
        lines = [f"def epilogue(args, kwargs{outputs}):", *(f"    {line}" for line in self.epilogue)]
        return "\n".join([*lines, f"    return {self.returned}", ""])

    def link(
        self,
        run: Callable[..., tuple[Any, ...]],
        *,
        check: bool = True,
        runs_ahead: Callable[[], bool] | None = None,
    ) -> Callable[..., Any]:
        """One function for a call: guards, computation, effects.

        Args:
            run: the compiled computation.
            check: False leaves the guards out (`cache="same input"`).
            runs_ahead: for a computation that only starts work on a device, and changes nothing but memory of its own:
                says at a call whether to start it once the tensors fit, and to look at the other guards while the
                device works; when one fails, the results are dropped.
        """
        namespace = {**self.prologue.namespace, "_run": run, "_guard_errors": _GUARD_ERRORS}
        checked = self._prologue_lines(namespace, check)
        call = f"_run({', '.join(self.arguments)})"
        lines = ["def call(args, kwargs):"]
        ahead = runs_ahead is not None and check and "_tensors_fit" in namespace and self.plain_error is None
        if ahead:
            namespace["_runs_ahead"] = runs_ahead
            lines += ["    _outputs = None", "    if _runs_ahead():", "        try:"]
            lines += [f"            {line}" for line in self.prologue.lines if isinstance(line, str)]
            lines.append(f"            if {checked[-1].removeprefix('if not ').removesuffix(': return -1')}:")
            # Whatever goes wrong here is met again below, after the guards that may explain it.
            lines += [f"                _outputs = {call}", "        except Exception:", "            _outputs = None"]
        lines.append("    try:")
        lines += [f"        {line}" for line in checked]
        lines += ["        pass", "    except _guard_errors:", "        return -1"]
        if self.plain_error is not None:
            namespace["_plain_call"] = PlainCall(self.plain_error)
            return compile_source("\n".join([*lines, "    return _plain_call"]) + "\n", "call", namespace)
        outputs = "".join(f"o{index}, " for index in range(self.output_count))
        if ahead:
            call = f"{call} if _outputs is None else _outputs"
        lines += ["    try:", f"        {outputs}= {call}" if outputs else f"        {call}"]
        # An error that only the computation itself finds (an index out of range): nothing else has happened yet.
        lines += ["    except Exception as error:", "        return error"]
        lines += [f"    {line}" for line in self.epilogue]
        lines.append(f"    return ({self.returned},)")
        return compile_source("\n".join(lines) + "\n", "call", namespace)

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The computation's inputs for a call; nothing is checked."""
        lines = ["def inputs(args, kwargs):"]
        lines += [f"    {line}" for line in self.prologue.lines if not isinstance(line, Check)]
        lines.append(f"    return ({', '.join(self.arguments)}{',' if len(self.arguments) == 1 else ''})")
        found: tuple[Any, ...] = compile_source("\n".join(lines) + "\n", "inputs", dict(self.prologue.namespace))(
            args, kwargs
        )
        return found

    def _prologue_lines(self, namespace: dict[str, Any], check: bool) -> list[str]:
        """The prologue's statements, checks joined; which one fails is found out by `failed_guard`."""
        prologue = self.prologue
        lines: list[str] = []
        if not check:
            return [line for line in prologue.lines if isinstance(line, str)]
        # PyTorch checks tensors together, and last; but a call of the user's is made only when all before it holds.
        together = tensor_guards([tensor for _, tensor in prologue.tensors.values()]) is not None
        conditions: list[str] = []
        of_functions: list[tuple[types.FunctionType, str]] = []
        waiting: list[tuple[str, torch.Tensor]] = []

        def flush() -> None:
            if conditions:
                lines.append(f"if not ({' and '.join(conditions)}): return -1")
                conditions.clear()

        def flush_functions() -> None:
            # In one step where nothing at all has changed about them, else one by one.
            unchanged = unchanged_functions([function for function, _ in of_functions])
            joined = " and ".join(condition for _, condition in of_functions)
            if unchanged is not None:
                name = f"_functions_unchanged{len(lines)}"
                namespace[name] = unchanged
                joined = f"{name}() or ({joined})"
            if of_functions:
                lines.append(f"if not ({joined}): return -1")
                of_functions.clear()

        def flush_tensors() -> None:
            # Constants are handed over as one tuple: that is quicker than naming each.
            ordered = [(name, tensor) for name, tensor in waiting if name not in prologue.namespace]
            constants = [(name, tensor) for name, tensor in waiting if name in prologue.namespace]
            suffix = len(lines) if prologue.users_calls else ""
            namespace[f"_tensors_fit{suffix}"] = tensor_guards([tensor for _, tensor in [*ordered, *constants]])
            namespace[f"_constant_tensors{suffix}"] = tuple(prologue.namespace[name] for name, _ in constants)
            listed = ", ".join([name for name, _ in ordered] + [f"*_constant_tensors{suffix}"])
            lines.append(f"if not _tensors_fit{suffix}({listed}): return -1")
            waiting.clear()

        for index, line in enumerate(prologue.lines):
            if index in prologue.users_calls:
                flush()
                flush_functions()
                if waiting:
                    flush_tensors()
            if isinstance(line, str):
                flush()
                lines.append(line)
            elif together and index in prologue.tensors:
                waiting.append(prologue.tensors[index])
            elif index in prologue.functions and _as_they_were(*prologue.functions[index]):
                of_functions.append((prologue.functions[index][0], line.condition))
            else:
                conditions.append(f"({line.condition})" if " or " in line.condition else line.condition)
                if len(conditions) == _JOINED_CHECKS:
                    flush()
        flush()
        flush_functions()
        if waiting:
            flush_tensors()
        return lines

    def failed_guard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """The number of the guard that fails for a call, found by checking one after the other; -1 for none."""
        found: int = self._explain(args, kwargs)
        return found

    @functools.cached_property
    def _explain(self) -> Callable[..., int]:
        lines = ["def explain(args, kwargs):", "    try:", *(f"        {line}" for line in self.prologue.lines)]
        lines += ["        pass", "    except _guard_errors:", "        return -1", "    return -1"]
        namespace = {**self.prologue.namespace, "_guard_errors": _GUARD_ERRORS}
        return compile_source("\n".join(lines) + "\n", "explain", namespace)

    def varied(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[tuple[str, int | None]]:
        """Places that differ at this call only by a size or a number: (tensor, dimension) or (number, None)."""
        prologue = self.prologue
        lines = ["def compare(args, kwargs, report):", "    try:"]
        for line in prologue.lines:
            if not isinstance(line, Check):
                lines.append(f"        {line}")
            elif line.number in prologue.places:
                reading = (
                    "v" if type(prologue.places[line.number][1]) is int else prologue.tensors_by_check[line.number]
                )
                lines.append(f"        if not ({line.condition}): report({line.number}, {reading})")
        lines += ["        pass", "    except _guard_errors:", "        pass"]
        found: set[tuple[str, int | None]] = set()

        def report(number: int, value: Any) -> None:
            source, expected = prologue.places[number]
            if isinstance(value, torch.Tensor) and isinstance(expected, tuple) and value.dim() == len(expected):
                sizes = zip(value.shape, expected)
                found.update((source.describe(), dim) for dim, (now, then) in enumerate(sizes) if now != then)
            elif type(value) is int and type(expected) is int:
                found.add((source.describe(), None))

        namespace = {**prologue.namespace, "_guard_errors": _GUARD_ERRORS}
        compile_source("\n".join(lines) + "\n", "compare", namespace)(args, kwargs, report)
        return found

    def describe_guard(self, number: int) -> str:
        """What a failed guard says, in the user's terms."""
        if number < 0:
            return "something that the program reads is missing"
        return self.prologue.describe(number)
