"""Operations of a trace.

An `Op` is one statement: `result = target(*args, **kwargs)`.  `target` is a public callable (a torch function, a
tensor method, an ATen overload, a custom op) or a `Region`: a named sub-trace, optionally with a compiled
implementation.  A `Region` that is called several times is printed and compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from thunder.errors import Location
from thunder.trace.var import Var, iterate_vars, map_vars

if TYPE_CHECKING:
    from thunder.trace.trace import Trace


def delete(*values: Any) -> None:
    """Target of the statement `del a, b`: its arguments are dead from here on."""


@dataclass(slots=True, eq=False)
class Op:
    """One statement of a trace.

    Attributes:
        target: what is called.
        args, kwargs: structures over Vars and constants.
        result: a Var, a structure of Vars and None, or None.  A Var that was defined earlier (the result of an
            in-place operation) is not assigned again.
        location: the user's line.
        scope: path of the module whose forward made it, e.g. `"model.layers.0.mlp"`.
        subops: the operations beneath it, filled in by lowering.
        tags: facts for later passes, by name.
    """

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    location: Location | None = None
    scope: str = ""
    subops: list[Op] = field(default_factory=list)
    tags: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> Iterator[Var]:
        return iterate_vars((self.args, self.kwargs) if self.kwargs else self.args)

    def outputs(self) -> Iterator[Var]:
        return iterate_vars(self.result)

    def map_inputs(self, function: Callable[[Var], Any]) -> Op:
        """A copy whose arguments are mapped; the result is kept."""
        return replace(self, args=map_vars(function, self.args), kwargs=map_vars(function, self.kwargs))

    def map_all(self, function: Callable[[Var], Any]) -> Op:
        """A copy whose arguments and result are mapped."""
        return replace(self.map_inputs(function), result=map_vars(function, self.result))

    def with_target(self, target: Callable[..., Any]) -> Op:
        return replace(self, target=target)

    @property
    def name(self) -> str:
        return getattr(self.target, "__name__", type(self.target).__name__)

    def __repr__(self) -> str:
        return f"Op({self.result} = {self.name}{self.args} {self.kwargs or ''})"


class Region:
    """A named sub-trace that is called as one operation.

    Attributes:
        name: identifier under which it is printed.
        trace: what it computes; pasted code runs this.
        implementation: compiled callable, or None to run the trace as it stands.
        executor: name of the executor that made the implementation.
        boxed: whether the implementation takes one list, which it empties, in place of separate arguments: it can
            then free an argument after its last use.
    """

    def __init__(
        self,
        name: str,
        trace: Trace,
        implementation: Callable[..., Any] | None = None,
        executor: str = "eager",
        *,
        boxed: bool = False,
    ) -> None:
        self.name = self.__name__ = name
        self.trace = trace
        self.implementation = implementation
        self.executor = executor
        self.boxed = boxed

    def callable(self) -> Callable[..., Any]:
        """What runs when the region is called; see `boxed`."""
        if self.implementation is None:
            self.implementation = self.trace.callable(boxed=self.boxed)
        return self.implementation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.callable()(list(args)) if self.boxed else self.callable()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Region({self.name}, {self.executor}, {len(self.trace.ops)} ops)"
