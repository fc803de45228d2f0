"""What an executor is, and the registry of executors by name.

The list of executors that a user gives is an order of preference: the first executor whose checker
accepts an operation takes it.  An executor that can run single operations defines `can_execute`
(and, to run them otherwise than as they stand, `implementation`); one that fuses several operations
defines `fuse`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thunder.errors import OptionError, unknown_name
from thunder.trace import Op, Region, Trace


class Executor:
    """Base class of executors.

    Attributes:
        name: the name in `executors=[...]`.
        takes_everything: whether it calls any operation as it stands: it is then not asked about torch-level ones.
    """

    name: str = ""
    takes_everything: bool = False

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    def unavailable_reason(self) -> str | None:
        """Why this executor cannot work on this machine, or None."""
        return None

    def can_execute(self, op: Op) -> bool:
        """Whether this executor takes the operation."""
        return False

    def implementation(self, op: Op) -> Callable[..., Any]:
        """What is called in place of the operation's target, for an operation that `can_execute` accepted."""
        return op.target

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        """Operators that this executor wants to see in terms of others, for one that fuses."""
        return {}

    def prepare(self) -> None:
        """Begins work that takes long and needs no program; called when a compiled callable is made."""

    def fuse(self, regions: list[Region]) -> None:
        """Compiles regions whose every operation this executor accepted, by setting their implementation.

        A region that cannot be compiled is left without one, after a warning that names it; it then runs its
        trace operation by operation.
        """

    def partition(self, trace: Trace, takes: Callable[[Op], bool], name: str) -> tuple[Trace, list[Region]]:
        """Puts regions into a lowered trace, for an executor that chooses them itself; they then go to `fuse`.

        Args:
            trace: may be put in another order, as long as it computes the same.
            takes: whether an operation is this executor's.
            name: stem of the regions' names.
        """
        return trace, []

    @property
    def partitions(self) -> bool:
        """Whether this executor chooses regions itself, in place of runs of consecutive operations."""
        return type(self).partition is not Executor.partition

    def suits(self, trace: Trace) -> bool:
        """Whether the executor, when it is one of the defaults, is meant for the program."""
        return True

    @property
    def fuses(self) -> bool:
        """Whether this executor takes regions of several operations."""
        return type(self).fuse is not Executor.fuse

    def __reduce__(self) -> Any:
        """Executors are pickled and copied by name: they hold locks and caches of this process."""
        return (get_executor, (self.name,)) if _registry.get(self.name) is self else super().__reduce__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


_registry: dict[str, Executor] = {}


def register_executor(executor: Executor) -> Executor:
    """Makes an executor known by its name; a later one of the same name takes its place."""
    if not executor.name:
        raise OptionError(f"{executor!r} has no name", remedy="set the class attribute `name`")
    _registry[executor.name] = executor
    return executor


def executor_names() -> list[str]:
    """Names of the known executors."""
    return sorted(_registry)


def get_executor(name: str) -> Executor:
    """The executor of that name."""
    if name not in _registry:
        raise unknown_name("executor", name, executor_names())
    return _registry[name]


def resolve_executors(executors: Iterable[str | Executor]) -> list[Executor]:
    """Names and instances to instances, in order; `eager` is added at the end when it is missing."""
    if isinstance(executors, str):
        raise OptionError(f"executors={executors!r} is a string", remedy=f"pass a list: executors=[{executors!r}]")
    resolved: list[Executor] = []
    for executor in executors:
        if isinstance(executor, str):
            executor = get_executor(executor)
        elif not isinstance(executor, Executor):
            raise OptionError(
                f"{executor!r} is no executor",
                remedy=f"pass a thunder.Executor or one of: {executor_names()}",
            )
        if executor not in resolved:
            resolved.append(executor)
    if not any(executor.name == "eager" for executor in resolved):
        resolved.append(get_executor("eager"))
    return resolved


# In order of preference; a program gets those that suit it.
DEFAULT_EXECUTORS = ("triton", "inductor", "eager")


def default_executors(trace: Trace) -> list[Executor]:
    """The executors of a program for which the user names none: the first that fuses and suits it, and `eager`."""
    suited = [executor for executor in map(get_executor, DEFAULT_EXECUTORS) if executor.suits(trace)]
    return [suited[0], *(executor for executor in suited[1:] if not executor.fuses)]
