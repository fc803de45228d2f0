"""Patterns: small PyTorch functions that are looked for in torch-level traces.

Input: a Python function of placeholders, written in plain PyTorch; a trace.  Output: matches, each with the values
that the placeholders stand for and the operations that it covers.

The function is run once on symbols that note the calls made on them.  Spellings are brought to one form on both
sides: `x * y`, `torch.mul(x, y)` and `y.mul(x)`; `x.float()` and `x.to(torch.float32)`; arguments by position and by
keyword, defaults left out.  A placeholder matches any value, a tensor or a constant; used twice, it has to match the
same value twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thunder.errors import OptionError
from thunder.trace import Op, Trace, Var

# Parameters of functions whose arguments programs give by position or by keyword.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "cat": ("tensors", "dim"),
    "cross_entropy": (
        "input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing",
    ),
    "flatten": ("input", "start_dim", "end_dim"),
    "embedding": ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
    "gelu": ("input", "approximate"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "linear": ("input", "weight", "bias"),
    "mean": ("input", "dim", "keepdim", "dtype"),
    "pow": ("input", "exponent"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "scaled_dot_product_attention": (
        "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa",
    ),
    "silu": ("input", "inplace"),
    "sum": ("input", "dim", "keepdim", "dtype"),
    "transpose": ("input", "dim0", "dim1"),
    "unsqueeze": ("input", "dim"),
}  # fmt: skip

_DEFAULTS: dict[str, Any] = {
    "approximate": "none", "attn_mask": None, "bias": None, "dropout_p": 0.0, "dtype": None, "enable_gqa": False,
    "end_dim": -1, "inplace": False, "is_causal": False, "keepdim": False, "label_smoothing": 0.0, "max_norm": None,
    "norm_type": 2.0, "padding_idx": None, "reduce": None, "scale": None, "scale_grad_by_freq": False,
    "size_average": None, "sparse": False, "start_dim": 0, "weight": None,
}  # fmt: skip

_NAMES = {
    "__add__": "add", "__radd__": "add", "__mul__": "mul", "__rmul__": "mul", "multiply": "mul", "__sub__": "sub",
    "subtract": "sub", "__truediv__": "div", "divide": "div", "true_divide": "div", "__neg__": "neg",
    "negative": "neg", "__pow__": "pow", "square": "pow", "__and__": "bitwise_and", "__le__": "le", "less_equal": "le",
    "__ge__": "ge", "greater_equal": "ge", "concat": "cat", "concatenate": "cat", "__matmul__": "matmul",
    "float": "to", "half": "to", "bfloat16": "to", "double": "to",
}  # fmt: skip
_CONVERSIONS = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}
_COMMUTATIVE = frozenset({"add", "mul", "bitwise_and"})


@dataclass(frozen=True)
class NormalCall:
    """A call in the one form that both sides are compared in; `arguments` by parameter or, unnamed, by position."""

    name: str
    arguments: dict[str | int, Any]


def normal_call(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> NormalCall:
    """The normal form of calling the function of this name."""
    normal = _NAMES.get(name, name)
    if normal == "to":
        return NormalCall("to", _conversion(name, args, kwargs))
    if name == "square":
        args = (*args, 2)
    elif name in ("view", "reshape") and len(args) == 2 and isinstance(args[1], (tuple, list)):
        args = (args[0], *args[1])
    parameters = _PARAMETERS.get(normal, ())
    arguments: dict[str | int, Any] = {}
    for position, value in enumerate(args):
        arguments[parameters[position] if position < len(parameters) else position] = value
    arguments.update(kwargs)
    arguments = {
        key: value
        for key, value in arguments.items()
        if key not in _DEFAULTS or isinstance(value, (Var, Symbol)) or value != _DEFAULTS[key]
    }
    return NormalCall(normal, arguments)


def _conversion(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str | int, Any]:
    """Arguments of a conversion: the tensor, the dtype when there is one, anything else as it stands."""
    if name in _CONVERSIONS:
        return {0: args[0], "dtype": _CONVERSIONS[name]}
    arguments: dict[str | int, Any] = {0: args[0]}
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, (torch.dtype, Symbol)):
            arguments["dtype"] = value
        elif isinstance(value, torch.device):
            continue  # a kernel works on tensors of one device: moving to another is not what it replaces
        elif value is not None and value is not False:
            arguments.setdefault("other", value)
    return arguments


class Symbol:
    """A value in a pattern: a placeholder, or the result of a call on symbols."""

    def __init__(self, name: str, call: NormalCall | None = None) -> None:
        self._name = name
        self._call = call

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Symbol:
        return Symbol("", normal_call(function.__name__, args, kwargs or {}))

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: Symbol("", normal_call(name, (self, *args), kwargs))

    def __repr__(self) -> str:
        return self._name or f"{self._call.name if self._call else ''}(...)"


def _operator(name: str, *, swapped: bool = False) -> Callable[..., Symbol]:
    def method(self: Symbol, *others: Any) -> Symbol:
        operands = (*others, self) if swapped else (self, *others)
        return Symbol("", normal_call(name, operands, {}))

    return method


for _method in ("add", "mul", "sub", "truediv", "pow", "and", "le", "ge", "matmul", "neg", "getitem"):
    setattr(Symbol, f"__{_method}__", _operator(f"__{_method}__"))
for _method in ("add", "mul", "sub", "truediv"):
    setattr(Symbol, f"__r{_method}__", _operator(f"__{_method}__", swapped=True))


@dataclass(frozen=True)
class Pattern:
    """A pattern function, run on symbols.

    Attributes:
        placeholders: the names of its parameters.
        outputs: what it returns; the last one is where matching begins.
    """

    placeholders: tuple[str, ...]
    outputs: tuple[Symbol, ...]

    @staticmethod
    def of(function: Callable[..., Any]) -> Pattern:
        """Runs `function` on one symbol for each parameter."""
        names = tuple(inspect.signature(function).parameters)
        result = function(*(Symbol(name) for name in names))
        outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if not outputs or not all(isinstance(output, Symbol) and output._call for output in outputs):
            raise OptionError(
                f"the pattern {getattr(function, '__name__', function)} returns something that is no call of PyTorch",
                remedy="return the tensor, or the tuple of tensors, that the kernel computes",
            )
        return Pattern(names, outputs)

    @property
    def root(self) -> Symbol:
        return self.outputs[-1]

    @property
    def root_name(self) -> str:
        """Name of the call that computes the last output."""
        assert self.root._call is not None
        return self.root._call.name


@dataclass(frozen=True)
class Match:
    """One place where a pattern fits.

    Attributes:
        bindings: what each placeholder stands for: a Var or a constant.
        outputs: the Vars of the pattern's outputs.
        ops: the operations that compute them.
    """

    bindings: dict[str, Any]
    outputs: tuple[Var, ...]
    ops: tuple[Op, ...]


@dataclass
class Definitions:
    """Where the Vars of a trace are made, with the calls in normal form."""

    trace: Trace
    makers: dict[int, Op] = field(default_factory=dict)
    _calls: dict[int, NormalCall] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inputs = {id(var) for var in self.trace.inputs}
        for op in self.trace.ops:
            if isinstance(op.result, Var) and id(op.result) not in inputs:
                self.makers.setdefault(id(op.result), op)

    def call(self, op: Op) -> NormalCall:
        """The operation's call in normal form."""
        known = self._calls.get(id(op))
        if known is None:
            known = self._calls[id(op)] = normal_call(op.name, op.args, op.kwargs)
        return known


_State = tuple[dict[str, Any], dict[int, Op]]


def match_at(pattern: Pattern, op: Op, definitions: Definitions) -> Iterator[Match]:
    """The ways in which the pattern's last output can be the result of `op`."""
    if not isinstance(op.result, Var):
        return
    for bindings, made in _match(pattern.root, op.result, definitions, ({}, {})):
        if all(id(output) in made for output in pattern.outputs):
            outputs = tuple(made[id(output)].result for output in pattern.outputs)
            missing = {name: None for name in pattern.placeholders if name not in bindings}
            yield Match({**bindings, **missing}, outputs, tuple({id(op): op for op in made.values()}.values()))


def _match(symbol: Any, value: Any, definitions: Definitions, state: _State) -> Iterator[_State]:
    if isinstance(symbol, Symbol):
        if symbol._call is None:
            yield from _bind(symbol._name, value, state)
        elif isinstance(value, Var) and id(value) in definitions.makers:
            bindings, made = state
            op = definitions.makers[id(value)]
            if id(symbol) in made:
                if made[id(symbol)] is op:
                    yield state
                return
            call = definitions.call(op)
            if call.name == symbol._call.name and call.arguments.keys() == symbol._call.arguments.keys():
                for found in _match_arguments(symbol._call, call, definitions, state):
                    yield found[0], {**found[1], id(symbol): op}
    elif isinstance(symbol, (tuple, list)) and not isinstance(symbol, torch.Size):
        if isinstance(value, (tuple, list)) and len(symbol) == len(value):
            yield from _match_all(list(zip(symbol, value)), definitions, state)
    elif isinstance(symbol, slice):
        if isinstance(value, slice):
            parts = [(symbol.start, value.start), (symbol.stop, value.stop), (symbol.step, value.step)]
            yield from _match_all(parts, definitions, state)
    elif type(symbol) is type(value) and not isinstance(value, Var) and symbol == value:
        yield state


def _match_arguments(
    symbol_call: NormalCall, call: NormalCall, definitions: Definitions, state: _State
) -> Iterator[_State]:
    pairs = [(symbol_call.arguments[key], call.arguments[key]) for key in symbol_call.arguments]
    yield from _match_all(pairs, definitions, state)
    if call.name in _COMMUTATIVE and call.arguments.keys() == {0, 1}:
        first, second = symbol_call.arguments[0], symbol_call.arguments[1]
        pairs = [(first, call.arguments[1]), (second, call.arguments[0])]
        yield from _match_all(pairs, definitions, state)


def _match_all(pairs: list[tuple[Any, Any]], definitions: Definitions, state: _State) -> Iterator[_State]:
    if not pairs:
        yield state
        return
    (symbol, value), *rest = pairs
    for found in _match(symbol, value, definitions, state):
        yield from _match_all(rest, definitions, found)


def _bind(name: str, value: Any, state: _State) -> Iterator[_State]:
    bindings, made = state
    if name not in bindings:
        yield {**bindings, name: value}, made
        return
    known = bindings[name]
    if known is value or (not isinstance(known, Var) and type(known) is type(value) and known == value):
        yield state
