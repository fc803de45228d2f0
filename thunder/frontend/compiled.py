"""Compiled callables: specialisations, their guards, and what happens when none fits.

A `CompiledFunction` holds entries, each a program linked with its compiled computation.  A call tries them in order
of their last use; the first whose guards pass answers.  When none does, the call is acquired and compiled anew.
Acquisition holds a lock, because the user's objects really change while it runs; calls of other threads wait.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from thunder import _torch_compat
from thunder.acquire import PlainCall, Program, acquire, acquisition, marked_sizes
from thunder.errors import (
    CompilationError,
    DataDependentError,
    Location,
    OptionError,
    RecompileWarning,
    SharpEdgeWarning,
    ThunderError,
    UnsupportedError,
    add_location_note,
    unknown_name,
)
from thunder.executors import CompiledComputation, Executor, compile_computation, default_executors, resolve_executors
from thunder.executors.collection import collection_paused
from thunder.executors.cuda_graphs import GraphPolicy, graph_policy
from thunder.executors.distribution import Distribution
from thunder.frontend.undoing import InputsChangedError, UndoingRun, may_draw_random_numbers
from thunder.kernels.placement import place_together
from thunder.trace import Trace

CACHE_MODES = ("constant values", "symbolic values", "same input", "no caching")
SHARP_EDGES = ("allow", "warn", "error")
ON_BREAK = ("error", "eager")
BREAKS_BEFORE_GIVING_UP = 3
"""Calls that break before further ones that fit no program run in plain Python without being tried."""


@dataclass(frozen=True)
class Options:
    """How a callable is compiled.

    Attributes:
        transforms: user passes `Trace -> Trace`, applied in order.
        executors: in order of preference; empty for those that suit the program.
        cache: "constant values" guards everything that was read; "symbolic values" makes symbols of the sizes and
            ints that have varied; "same input" takes the first program for every
            call; "no caching" acquires every call anew.
        sharp_edges: whether Python that reaches outside of the program is reported.
        on_break: what a program that cannot be acquired leads to: its error, or a call in plain Python.
        all_dynamic: with "symbolic values": every size of the arguments' tensors is a symbol from the first call on.
        recompile_limit: specialisations of one callable before further calls run in plain Python.
        cuda_graphs: "off"; "inference": programs without gradients are captured when their calls repeat; "all": those
            with gradients too.
        distribution: how the programs are spread over processes; None for one process.
    """

    transforms: tuple[Callable[..., Any], ...] = ()
    executors: tuple[Executor, ...] = ()
    cache: str = "constant values"
    sharp_edges: str = "allow"
    on_break: str = "error"
    recompile_limit: int = 16
    all_dynamic: bool = False
    cuda_graphs: str | GraphPolicy = "off"
    distribution: Distribution | None = None

    def __post_init__(self) -> None:
        for name, known in (("cache", CACHE_MODES), ("sharp_edges", SHARP_EDGES), ("on_break", ON_BREAK)):
            value = getattr(self, name)
            if value not in known:
                raise unknown_name(f"value of {name}:", value, list(known))
        graph_policy(self.cuda_graphs)
        for transform in self.transforms:
            if not callable(transform):
                raise OptionError(
                    f"the transform {transform!r} is not callable", remedy="pass functions Trace -> Trace"
                )


def make_options(
    *,
    transforms: Sequence[Callable[..., Any]] | None = None,
    executors: Sequence[str | Executor] | None = None,
    **others: Any,
) -> Options:
    """Options from what users write: names of executors, None for defaults."""
    resolved = () if executors is None else resolve_executors(executors)
    return Options(transforms=tuple(transforms or ()), executors=tuple(resolved), **others)


@dataclass
class Entry:
    """One specialisation: `call(args, kwargs)` answers as `Program.link` says."""

    call: Callable[..., Any]
    program: Program
    computation: CompiledComputation


@dataclass
class Statistics:
    """Counts and times of one compiled callable; see `thunder.compile_stats`."""

    cache_hits: int = 0
    cache_misses: int = 0
    acquire_seconds: list[float] = field(default_factory=list)
    compile_seconds: list[float] = field(default_factory=list)
    failed_guards: list[str] = field(default_factory=list)
    plain_calls: int = 0
    plain_reason: str = ""
    notes: list[list[str]] = field(default_factory=list)


class CompiledFunction:
    """A callable that runs as a compiled program.

    Args:
        function: a function, a method or an `nn.Module`.
        options: how it is compiled.
    """

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        if not isinstance(function, torch.nn.Module):
            functools.update_wrapper(self, function)  # first: it copies attributes, which may have the names below
        self.function = function
        self.options = options
        self.entries: list[Entry] = []
        self.last: Entry | None = None
        self.statistics = Statistics()
        self._unstable: frozenset[str] = frozenset()
        self._dynamic: frozenset[tuple[str, int | None]] = frozenset()
        self._varying: frozenset[str] = frozenset()
        self._deciding: frozenset[str] = frozenset()
        self._gave_up: str | None = None
        self._breaks = 0
        self._warned: set[tuple[str, Location | None]] = set()
        taken = None if options.distribution is None else options.distribution.dispatch_of(self)
        if taken is not None:
            self.dispatch = taken  # type: ignore[method-assign, assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.dispatch(args, kwargs)

    def dispatch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the program whose guards pass, or compiles one."""
        if acquisition.thread:
            if acquisition.thread == threading.get_ident():
                return self.function(*args, **kwargs)  # called by code that is not interpreted
            with acquisition.lock:
                pass
        if _torch_compat.is_transformed():
            return self._call_within_transform(args, kwargs)
        entries = self.entries
        for entry in entries:
            answer = entry.call(args, kwargs)
            if type(answer) is tuple:
                self.statistics.cache_hits += 1
                if entry is not entries[0]:
                    self._to_front(entry)
                return answer[0]
            if answer != -1:
                return self._otherwise(answer, args, kwargs)
        return self._compile_and_call(args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A compiled function in a class binds as any function does."""
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<thunder {getattr(self.function, '__qualname__', type(self.function).__qualname__)}>"

    def _to_front(self, entry: Entry) -> None:
        # A new list: another thread may be iterating over the old one.
        self.entries = [entry, *(other for other in self.entries if other is not entry)]

    def _call_within_transform(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compiled programs know nothing of the tensors of `torch.func` and of forward-mode gradients."""
        error = UnsupportedError(
            f"{self!r} is called within a transform of torch.func or of forward-mode gradients",
            remedy="compile the transformed function: thunder.jit(torch.func.vmap(f))",
        )
        if self.options.on_break == "error":
            raise error
        self._warn_of_break(error)
        return self._call_plain(str(error), args, kwargs)

    def _compile_and_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._gave_up is not None:
            return self._call_plain(self._gave_up, args, kwargs)
        with acquisition.lock:
            for entry in self.entries:  # another thread may have compiled it meanwhile
                answer = entry.call(args, kwargs)
                if type(answer) is tuple:
                    self.statistics.cache_hits += 1
                    return answer[0]
                if answer != -1:
                    return self._otherwise(answer, args, kwargs)
                self._note_failure(entry, entry.program.failed_guard(args, kwargs))
                if self.options.cache == "symbolic values":
                    self._dynamic |= entry.program.varied(args, kwargs)
            self.statistics.cache_misses += 1
            if len(self.entries) >= self.options.recompile_limit:
                return self._call_plain(self._give_up(), args, kwargs)
            raised: Exception | None = None
            try:
                entry = self.compile(args, kwargs)
            except (DataDependentError, UnsupportedError) as error:
                if self.options.on_break == "error":
                    raise
                self._note_break(error)
                return self._call_plain(str(error), args, kwargs)
            except ThunderError:
                raise
            except Exception as error:  # the user's program raises, and may raise anything
                raised = error
            if raised is not None:  # here, so that the traceback shows the program's own error alone
                return self._raise_in_plain_python(raised, args, kwargs)
            if self.options.cache != "no caching":
                self.entries = [entry, *self.entries]
        answer = entry.call(args, kwargs)
        if type(answer) is tuple:
            return answer[0]
        if answer != -1:
            return self._otherwise(answer, args, kwargs)
        # The program changed what it depends on between acquisition and this call (another thread did).
        guard = entry.program.describe_guard(entry.program.failed_guard(args, kwargs))
        return self._call_plain(f"a new program's guard fails: {guard}", args, kwargs)

    def _call_plain(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call in plain Python, which the statistics count."""
        if self.options.distribution is not None:
            raise UnsupportedError(
                f"this call would run in plain Python, where nothing of a distributed model is gathered or averaged: "
                f"{reason}",
                remedy="see docs/guards.md for what makes a program that fits every call",
            )
        self.statistics.plain_calls += 1
        self.statistics.plain_reason = reason
        return self.function(*args, **kwargs)

    def _otherwise(self, error: Exception | PlainCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The program cannot make the call, or its computation raised: plain Python makes it, and raises as well.

        A call that has changed tensors in place cannot be begun again.
        """
        if isinstance(error, PlainCall):
            self._warn_of_break(error.error)
            return self._call_plain(str(error.error), args, kwargs)
        if isinstance(error, InputsChangedError):
            raise error.error
        if self.options.distribution is not None:
            raise error
        return self._call_plain(f"the computation raised {type(error).__name__}: {error}", args, kwargs)

    def _raise_in_plain_python(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that raises runs in plain Python: what it changes before it raises must have happened.

        Whether the error is the program's own or the compiler's, only plain Python can tell.
        """
        reason = f"acquisition failed with {type(error).__name__}: {error}"
        location = getattr(error, "__thunder_location__", None)
        if self.options.distribution is not None:
            raise error
        try:
            result = self._call_plain(reason, args, kwargs)
        except Exception as own:  # the same error, whatever it is, from the user's own line
            add_location_note(own, location)
            raise
        if self.options.on_break == "error":
            raise CompilationError(
                f"{self!r} cannot be compiled for this call: {reason}. Plain Python has run the call, once, without an "
                "error; what it changed stays changed",
                location,
                "report it, please; thunder.jit(..., on_break='eager') lets such calls run in plain Python",
            ) from error
        self._note_break(CompilationError(reason, location))
        return result

    def _note_break(self, error: ThunderError) -> None:
        """Counts calls that had to be acquired in vain, and warns."""
        self._breaks += 1
        if self._breaks >= BREAKS_BEFORE_GIVING_UP:
            self._gave_up = str(error)
        self._warn_of_break(error)

    def _warn_of_break(self, error: ThunderError) -> None:
        """Warns, once for each place, that calls run in plain Python there."""
        if (error.what, error.where) not in self._warned:
            self._warned.add((error.what, error.where))
            message = f"{self!r} runs in plain Python: {error}"
            if error.where is not None:  # the warning is given for the user's own line
                warnings.warn_explicit(message, SharpEdgeWarning, error.where.filename, error.where.line)
            else:
                warnings.warn(message, SharpEdgeWarning, stacklevel=5)

    def compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        """Acquires and compiles the program for one call."""
        with collection_paused():
            return self._compile(args, kwargs)

    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        options, distribution = self.options, self.options.distribution
        start = time.perf_counter()
        program = self._acquire(args, kwargs)
        acquired = time.perf_counter()
        executors = options.executors or tuple(default_executors(program.computation))
        if program.shares_storage or program.symbolic or enables_grad(program.computation):
            executors = tuple(resolve_executors(["eager"]))
        computation = compile_computation(
            program.computation,
            executors=executors,
            transforms=options.transforms,
            grad_enabled=torch.is_grad_enabled(),
            graphs=graph_policy(options.cuda_graphs),
            distribution=None if distribution is None else distribution.for_program(program.inputs(args, kwargs)),
        )
        groups = computation.merged_inputs
        if groups:
            inputs = program.inputs(args, kwargs)
            for group in groups:
                place_together([inputs[position] for position in group])
        run = computation.run
        if program.changed_inputs or may_draw_random_numbers(program.computation):
            run = UndoingRun(run, program.changed_inputs)
        ahead = computation.runs_ahead if not program.changed_inputs else None
        call = program.link(run, check=options.cache != "same input", runs_ahead=ahead)
        finished = time.perf_counter()
        self.statistics.acquire_seconds.append(acquired - start)
        self.statistics.compile_seconds.append(finished - acquired)
        self.statistics.notes.append(computation.notes)
        self.last = Entry(call, program, computation)
        return self.last

    def _acquire(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
        """Acquires the program; what has varied or is marked is taken for unknown, where the program allows that."""
        acquire_with = functools.partial(
            acquire,
            self.function,
            args,
            kwargs,
            sharp_edges=self.options.sharp_edges,
            unstable=self._unstable,
            seen_as=None if self.options.distribution is None else self.options.distribution.seen_as,
            lookasides=module_lookasides,
        )
        symbols: dict[str, Any] = {"dynamic": self._dynamic, "all_dynamic": self.options.all_dynamic}
        if self.options.cache == "symbolic values" and any(map(_is_marked, pytree.tree_leaves((args, kwargs)))):
            symbols["dynamic"] = self._dynamic | {("marked sizes", None)}
        if self._varying:
            try:
                return acquire_with(varying=self._varying, **symbols)
            except DataDependentError:
                self._deciding |= self._varying
                self._varying = frozenset()
        if not any(symbols.values()):
            return acquire_with()
        try:
            return acquire_with(**symbols)
        except Exception:
            # A boundary: code that takes ints alone (a dict's keys, extension modules) raises anything for symbols.
            return acquire_with()

    def _note_failure(self, entry: Entry, number: int) -> None:
        self.statistics.failed_guards.append(entry.program.describe_guard(number))
        place = entry.program.identity_checks.get(number)
        if place is not None:
            # The object at this place is another one now: from here on it is followed by path.
            self._unstable |= {place.describe()}
        place = entry.program.value_checks.get(number)
        if place is not None and place.describe() not in self._deciding:
            self._varying |= {place.describe()}

    def _give_up(self) -> str:
        """Says, once, that calls that fit no program run in plain Python from now on; the reason."""
        guard = self.statistics.failed_guards[-1]
        self._gave_up = f"{len(self.entries)} specialisations; the last guard to fail: {guard}"
        warnings.warn(
            f"{self!r} was compiled {len(self.entries)} times and this call fits none of the programs; calls that "
            f"fit none run in plain Python from now on. The guard that keeps failing: {guard}",
            RecompileWarning,
            stacklevel=4,
        )
        return self._gave_up


def _is_marked(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and bool(marked_sizes(leaf))


def enables_grad(computation: Trace) -> bool:
    """Whether gradients are switched on inside a program that is called without them."""
    if torch.is_grad_enabled():
        return False
    return any(op.target is torch._C._set_grad_enabled and op.args == (True,) for op in computation.ops)


module_lookasides: dict[Any, Callable[..., Any]] = {
    CompiledFunction.__call__: lambda interp, compiled, *args, **kwargs: interp.call(compiled.function, *args, **kwargs)
}
"""Compiled callables that an acquired program calls are acquired with it."""
