"""Sizes and numbers that vary from call to call, as symbols.

After a size has varied, its place is acquired as a symbol of PyTorch's shape environment: shadows are then fake
tensors with symbolic sizes, Python that computes with sizes computes with symbols, and a decision on a symbol
becomes a relation that the prologue states (`n0 >= 2`, `n0 + n1 == n2`).

Input: the places that vary.  Output: symbols, their values as expressions of the prologue, checks, and operations
that compute sizes inside the trace.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext
from torch.utils._sympy.printers import PythonPrinter

from thunder._torch_compat import shape_environment
from thunder.acquire.guards import Prologue
from thunder.acquire.sources import Source
from thunder.errors import UnsupportedError
from thunder.trace import Op, Var

_OF_MANY = frozenset({"Add", "Mul", "Max", "Min", "And", "Or"})
"""Functions of SymPy that take any number of arguments."""
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Pow": operator.pow,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
    "Abs": abs,
    "ToFloat": torch.sym_float,
    "FloatTrueDiv": operator.truediv,
    "IntTrueDiv": operator.truediv,
    "FloatPow": operator.pow,
    "PowByNatural": operator.pow,
    "TruncToInt": math.trunc,
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "OpaqueUnaryFn_sqrt": torch.sym_sqrt,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "LessThan": operator.le,
    "StrictLessThan": operator.lt,
    "GreaterThan": operator.ge,
    "StrictGreaterThan": operator.gt,
    "And": operator.and_,
    "Or": operator.or_,
    "Not": torch.sym_not,
}

Seen = tuple[tuple[int, ...], torch.dtype, torch.device]
"""The plain tensor that a program sees in place of a tensor subclass: shape, dtype, device."""


class Symbols:
    """The symbols of one acquisition.

    Args:
        prologue: receives the checks.
        dynamic: places that vary: (description of a tensor, dimension), or (description of a number, None).
        all_sizes: every size of every tensor that is reached from the arguments varies.
        has_unknown: sizes and numbers may depend on the values of tensors.
        refuse: makes the error for a decision on a number that is not known; the error is noted as it is made.
    """

    def __init__(
        self,
        prologue: Prologue,
        dynamic: frozenset[tuple[str, int | None]],
        all_sizes: bool = False,
        *,
        has_unknown: bool = False,
        refuse: Callable[[], Exception],
    ) -> None:
        self.prologue = prologue
        self.dynamic = dynamic
        self.all_sizes = all_sizes
        self.has_unknown = has_unknown
        self.environment = shape_environment(self._note_decision, has_unknown=has_unknown)
        self._refuse = refuse
        self._kernels = 0
        self._sizes: dict[sympy.Symbol, tuple[Var, int]] = {}
        self._assumed = 0
        self._stated: set[sympy.Expr] = set()
        self.fake_mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.names: dict[sympy.Symbol, str] = {}
        self.inputs: list[tuple[Var, str]] = []
        self._vars: dict[sympy.Expr, Any] = {}
        self._numbers: dict[int, torch.SymInt] = {}
        self._places: dict[sympy.Symbol, str] = {}

    # Inputs -----------------------------------------------------------------------------------------------------
    def is_dynamic_number(self, source: Source) -> bool:
        return (source.describe(), None) in self.dynamic

    def number(self, source: Source, value: int) -> Any:
        """The symbol for an int that varies; 0 and 1 stay what they are, as in PyTorch."""
        known = self._numbers.get(id(source))
        if known is not None:
            return known
        name = self.prologue.expression(source)
        self.prologue.check(f"type({name}) is int", lambda: f"{source.describe()} is an int")
        made: Any = self.environment.create_unspecified_symint_and_symbol(
            value, ConstantSource(f"number_{len(self.names)}"), DimDynamic.DYNAMIC
        )
        self._numbers[id(source)] = made
        self._define(made, name, source.describe())
        return made

    def measured(self, value: int, reading: str, place: str) -> Any:
        """The symbol for a number that the prologue computes by `reading`."""
        made: Any = self.environment.create_unspecified_symint_and_symbol(
            value, ConstantSource(f"measured_{len(self.prologue.lines)}"), DimDynamic.DYNAMIC
        )
        if isinstance(made, torch.SymInt):
            self._define(made, reading, place)
        else:
            self.prologue.check(f"{reading} == {made}", f"{place} == {made}")
        return made

    def tensor(self, source: Source, real: torch.Tensor, seen_as: Seen | None = None) -> FakeTensor:
        """The fake tensor for a real one, symbolic where its sizes vary; checks what the symbols do not leave open.

        `seen_as`, for a tensor subclass that the program sees as a plain tensor: what it sees: its shape is constant.
        """
        if seen_as is not None:
            self.prologue.tensor(source, real)
            with torch._C.DisableTorchFunction(), self.fake_mode:
                plain: Any = torch.empty(seen_as[0], dtype=seen_as[1], device=seen_as[2])
                return plain.requires_grad_(real.requires_grad)
        place = source.describe()
        every = self.all_sizes and not source.stable
        marked = marked_sizes(real)
        varying = [every or dim in marked or (place, dim) in self.dynamic for dim in range(real.dim())]
        context: Any = StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC if varies else DimDynamic.STATIC for varies in varying]
        )
        # Without symbols of its own a tensor needs none for its gradient or for the memory that it is a part of.
        symbolic: dict[str, Any] = {"symbolic_context": context} if any(varying) else {"static_shapes": True}
        with torch._C.DisableTorchFunction():
            fake = self.fake_mode.from_tensor(
                real, source=ConstantSource(f"tensor_{len(self.prologue.lines)}"), **symbolic
            )
        if not any(isinstance(size, torch.SymInt) for size in fake.shape):
            self.prologue.tensor(source, real)
            return fake
        name, bind = self.prologue.expression(source), self.prologue.bind
        shape = f"{name}_shape".replace(".", "_")
        self.prologue.check(
            f"type({name}) is {bind(type(real))} and {name}.dtype is {bind(real.dtype)}"
            f" and {name}.dim() == {real.dim()}"
            f" and {name}.requires_grad is {real.requires_grad} and {name}.device == {bind(real.device)}",
            lambda: f"{place} is a {real.dim()}-dimensional {real.dtype} tensor on {real.device}",
        )
        self.prologue.lines.append(f"{shape} = {name}.shape")
        for dim, size in enumerate(fake.shape):
            if isinstance(size, torch.SymInt):
                self._define(size, f"{shape}[{dim}]", f"{place}.shape[{dim}]")
            else:
                self.prologue.check(f"{shape}[{dim}] == {int(size)}", f"{place}.shape[{dim}] == {int(size)}")
        strides = ", ".join(self.text(stride) for stride in fake.stride())
        self.prologue.check(f"{name}.stride() == ({strides},)", f"{place}.stride() == ({strides})")
        return fake

    def _define(self, symbol: torch.SymInt, reading: str, place: str) -> None:
        """Binds a symbol to what the prologue reads, or checks that two readings of one symbol agree."""
        expression = symbol.node.expr
        if not isinstance(expression, sympy.Symbol):
            self.prologue.check(f"{reading} == {self.text(symbol)}", f"{place} == {self.text(symbol)}")
            return
        known = self.names.get(expression)
        if known is not None:
            other = self._places[expression]
            self.prologue.check(f"{reading} == {known}", f"{place} == {other}")
            return
        name = f"n{len(self.names)}"
        self.names[expression] = name
        self._places[expression] = place
        self.prologue.lines.append(f"{name} = {reading}")
        var = Var(name, symbol)
        self._vars[expression] = var
        self.inputs.append((var, name))

    # Use --------------------------------------------------------------------------------------------------------
    def is_known(self, value: Any) -> bool:
        """Whether the prologue can compute a number; others only the running program knows."""
        return all(symbol in self.names for symbol in value.node.expr.free_symbols)

    def text(self, value: Any) -> str:
        """A size as Python over the prologue's names."""
        expression = value.node.expr if isinstance(value, (torch.SymInt, torch.SymFloat)) else sympy.sympify(value)
        return _print(expression, self.names)

    def written(
        self, value: torch.SymInt | torch.SymFloat, emit: Callable[[Op], None], fresh: Callable[[str], str]
    ) -> Any:
        """A size as an argument in the trace: a number, an input, or computed by operations that are emitted."""
        return self._lower(value.node.expr, emit, fresh)

    def _lower(self, expression: Any, emit: Callable[[Op], None], fresh: Callable[[str], str]) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression.is_Float or expression.is_Rational:
            return float(expression)
        known = self._vars.get(expression)
        if known is not None:
            return known
        if expression in self._sizes:
            var, dimension = self._sizes[expression]
            result = self._operation(torch.Tensor.size, (var, dimension), emit, fresh)
            self._vars[expression] = result
            return result
        if expression.is_Symbol:
            raise UnsupportedError(f"the size {expression} depends on values of tensors", remedy="use constant sizes")
        arguments = [self._lower(part, emit, fresh) for part in expression.args]
        name = type(expression).__name__
        function = _FUNCTIONS.get(name)
        if function is None:
            raise UnsupportedError(
                f"the size {expression} cannot be computed in a trace ({name})",
                remedy="use thunder.jit(..., cache='constant values')",
            )
        if name in _OF_MANY:
            result = functools.reduce(lambda a, b: self._operation(function, (a, b), emit, fresh), arguments)
        else:
            result = self._operation(function, tuple(arguments), emit, fresh)
        self._vars[expression] = result
        return result

    def _operation(
        self, function: Any, arguments: tuple[Any, ...], emit: Callable[[Op], None], fresh: Callable[[str], str]
    ) -> Var:
        values = [argument.value if isinstance(argument, Var) else argument for argument in arguments]
        var = Var(fresh("size"), function(*values))  # `n0`, `n1`, ... are the symbols that the prologue reads
        emit(Op(function, arguments, {}, var))
        return var

    # Numbers that only the running program knows ----------------------------------------------------------------
    @contextlib.contextmanager
    def inside_kernel(self) -> Iterator[None]:
        """PyTorch's own kernels may try to decide on an unknown number, and go on without an answer."""
        self._kernels += 1
        try:
            yield
        finally:
            self._kernels -= 1

    def enter_region(self) -> Callable[[], set[sympy.Symbol]]:
        """Names that are given inside are not known outside; answers what leaves it.

        Leaving gives the symbols that have lost their tensor.
        """
        names, sizes = dict(self._vars), dict(self._sizes)

        def leave() -> set[sympy.Symbol]:
            lost = set(self._sizes) - set(sizes)
            self._vars, self._sizes = names, sizes
            return lost

        return leave

    def _note_decision(self) -> None:
        """The user's program decides on an unknown number."""
        if not self._kernels:
            self._refuse()

    def has_fresh_symbols(self) -> bool:
        return bool(self.environment.pending_fresh_unbacked_symbols)

    def fresh_symbols(self) -> list[sympy.Symbol]:
        """The symbols that the last call made; each is told of once."""
        fresh = list(self.environment.pending_fresh_unbacked_symbols)
        self.environment.pending_fresh_unbacked_symbols.clear()
        return fresh

    def unnamed(self, number: Any) -> list[sympy.Symbol]:
        """The symbols in a number that neither the prologue nor the trace has a name for."""
        if not isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return []
        symbols = number.node.expr.free_symbols
        return [s for s in symbols if s not in self._vars and s not in self._sizes and s not in self.names]

    def define(self, symbol: sympy.Symbol, var: Var) -> None:
        """`var` holds the number that `symbol` stands for."""
        self._vars[symbol] = var

    def define_size(self, symbol: sympy.Symbol, var: Var, dimension: int) -> None:
        """`symbol` stands for a size of a tensor."""
        self._sizes.setdefault(symbol, (var, dimension))

    def new_assumptions(self) -> list[sympy.Expr]:
        """Conditions on unknown numbers that were taken for granted since the last time."""
        if self.environment.num_deferred_runtime_asserts == self._assumed:
            return []
        listed = [entry.expr for entries in self.environment.deferred_runtime_asserts.values() for entry in entries]
        self._assumed = self.environment.num_deferred_runtime_asserts
        fresh = [expression for expression in listed if expression not in self._stated]
        self._stated.update(fresh)
        return fresh

    def written_condition(self, condition: sympy.Expr, emit: Callable[[Op], None], fresh: Callable[[str], str]) -> Any:
        """A condition in the trace; None for one about numbers that the program never gets to see."""
        unseen = [s for s in condition.free_symbols if s not in self._vars and s not in self._sizes]
        return None if unseen else self._lower(condition, emit, fresh)

    # The end ----------------------------------------------------------------------------------------------------
    def finish(self) -> None:
        """Checks of everything that was decided on symbols."""
        for symbol, name in self.names.items():
            bounds = self.environment.var_to_range.get(symbol)
            if bounds is not None and bounds.lower.is_Integer and int(bounds.lower) > -(2**31):
                self.prologue.check(f"{name} >= {int(bounds.lower)}", f"{self._places[symbol]} >= {int(bounds.lower)}")
            if bounds is not None and bounds.upper.is_Integer and int(bounds.upper) < 2**31:
                self.prologue.check(f"{name} <= {int(bounds.upper)}", f"{self._places[symbol]} <= {int(bounds.upper)}")
        seen = set()
        for guard in self.environment.guards:
            text = _print(guard.expr, self.names)
            if text in seen or guard.expr in (sympy.true, True):
                continue
            seen.add(text)
            self.prologue.check(text, _print(guard.expr, self._places))


def marked_sizes(tensor: torch.Tensor) -> frozenset[int]:
    """The dimensions that the user has marked with `torch._dynamo.mark_dynamic` or `maybe_mark_dynamic`."""
    names = ("_dynamo_dynamic_indices", "_dynamo_weak_dynamic_indices")
    return frozenset(dim for name in names for dim in getattr(tensor, name, ()))


def _print(expression: Any, names: dict[sympy.Symbol, str]) -> str:
    """A sympy expression as Python."""
    stand_ins = {symbol: sympy.Symbol(f"_size_{index}", integer=True) for index, symbol in enumerate(names)}
    missing = [symbol for symbol in expression.free_symbols if symbol not in names]
    if missing:
        raise UnsupportedError(f"the size {expression} depends on values of tensors", remedy="use constant sizes")
    text: str = PythonPrinter().doprint(expression.xreplace(stand_ins))
    for symbol, stand_in in reversed(list(stand_ins.items())):
        text = text.replace(str(stand_in), names[symbol])
    return text
