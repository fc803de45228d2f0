"""The intermediate representation: a straight-line Python program over torch.

Invariants (held by `verify`): every Var is defined once, before its first use; nothing is used after `del`; the
output consists of defined Vars and constants.  `str(trace)` is Python that runs when pasted; `trace.callable()`
is the function that is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from thunder.trace.op import Op, Region
from thunder.trace.printer import compile_trace, print_trace
from thunder.trace.var import Var, iterate_vars, map_vars


class Trace:
    """A program: `name(inputs) -> output`, computed by `ops` in order.

    Attributes:
        name: name of the printed function.
        inputs: parameters, in order.
        ops: statements, in order.
        output: structure (tuple, list, dict, ...) of Vars and constants that is returned.
        history: one line per pass that led here, oldest first.
    """

    def __init__(
        self,
        name: str = "computation",
        inputs: list[Var] | None = None,
        ops: list[Op] | None = None,
        output: Any = None,
        history: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.inputs = inputs if inputs is not None else []
        self.ops = ops if ops is not None else []
        self.output = output
        self.history = history

    def replace(self, **changes: Any) -> Trace:
        """A copy with some attributes changed; the Vars and Ops are shared."""
        attributes = {
            "name": self.name,
            "inputs": list(self.inputs),
            "ops": list(self.ops),
            "output": self.output,
            "history": self.history,
        }
        attributes.update(changes)
        return Trace(**attributes)

    def variables(self) -> Iterator[Var]:
        """Every Var that is defined, in order of definition."""
        seen: set[int] = set()
        for var in [*self.inputs, *(out for op in self.ops for out in op.outputs())]:
            if id(var) not in seen:
                seen.add(id(var))
                yield var

    def output_vars(self) -> list[Var]:
        return list(iterate_vars(self.output))

    def regions(self) -> list[Region]:
        """The distinct regions that are called, inner ones first."""
        found: dict[int, Region] = {}
        for op in self.ops:
            for region in regions_of_op(op):
                for inner in region.trace.regions():
                    found.setdefault(id(inner), inner)
                found.setdefault(id(region), region)
        return list(found.values())

    def map_vars(self, function: Callable[[Var], Any]) -> Trace:
        """A copy with every Var mapped (used for renaming and inlining)."""
        return self.replace(
            inputs=[function(var) for var in self.inputs],
            ops=[op.map_all(function) for op in self.ops],
            output=map_vars(function, self.output),
        )

    def python(self, *, types: bool = True, locations: bool = True) -> str:
        """The program as Python source that runs when pasted."""
        return print_trace(self, types=types, locations=locations)

    def callable(self, *, boxed: bool = False) -> Callable[..., Any]:
        """The program as a Python function, with the same statements as `python()`.

        `boxed`: it takes its arguments as one list, which it empties.
        """
        return compile_trace(self, boxed=boxed)

    def __str__(self) -> str:
        return self.python()

    def __repr__(self) -> str:
        return f"Trace({self.name}: {len(self.inputs)} inputs, {len(self.ops)} ops)"


def regions_of_op(op: Op) -> Iterator[Region]:
    """Regions that an operation calls, or passes as an argument (checkpointing)."""
    if isinstance(op.target, Region):
        yield op.target
    for argument in (*op.args, *op.kwargs.values()):
        if isinstance(argument, Region):
            yield argument


class Namer:
    """Hands out names that are unique in one trace: `t0`, `t1`, ... or `weight`, `weight_1`, ..."""

    def __init__(self, taken: set[str] | None = None) -> None:
        self._taken = set(taken or ())
        self._next: dict[str, int] = {}

    def fresh(self, stem: str = "t", *, numbered: bool = True) -> str:
        """A new name; `numbered=False` gives `stem` itself the first time."""
        if not numbered and stem not in self._taken:
            self._taken.add(stem)
            return stem
        separator = "" if numbered else "_"
        while True:
            number = self._next.get(stem, 0 if numbered else 1)
            self._next[stem] = number + 1
            name = f"{stem}{separator}{number}"
            if name not in self._taken:
                self._taken.add(name)
                return name
