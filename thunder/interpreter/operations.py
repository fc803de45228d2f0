"""Binary operators, in-place operators and comparisons: their native function and their special methods."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """One operator: how it is spelled, computed natively, and which special methods implement it."""

    symbol: str
    native: Callable[[Any, Any], Any]
    method: str
    reflected: str
    in_place: str | None
    instruction: str


_ROWS: list[tuple[str, str, Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = [
    ("+", "add", operator.add, operator.iadd),
    ("-", "sub", operator.sub, operator.isub),
    ("*", "mul", operator.mul, operator.imul),
    ("/", "truediv", operator.truediv, operator.itruediv),
    ("//", "floordiv", operator.floordiv, operator.ifloordiv),
    ("%", "mod", operator.mod, operator.imod),
    ("**", "pow", operator.pow, operator.ipow),
    ("@", "matmul", operator.matmul, operator.imatmul),
    ("&", "and", operator.and_, operator.iand),
    ("|", "or", operator.or_, operator.ior),
    ("^", "xor", operator.xor, operator.ixor),
    ("<<", "lshift", operator.lshift, operator.ilshift),
    (">>", "rshift", operator.rshift, operator.irshift),
]

_FAST = {
    "+": "BINARY_ADD",
    "-": "BINARY_SUBTRACT",
    "*": "BINARY_MULTIPLY",
    "&": "BINARY_AND",
    "//": "BINARY_FLOOR_DIVIDE",
    "%": "BINARY_MODULO",
}

BINARY_OPERATIONS: dict[str, Operation] = {}
for _symbol, _name, _native, _native_in_place in _ROWS:
    BINARY_OPERATIONS[_symbol] = Operation(
        _symbol, _native, f"__{_name}__", f"__r{_name}__", None, _FAST.get(_symbol, "BINARY_OPERATION")
    )
    BINARY_OPERATIONS[_symbol + "="] = Operation(
        _symbol + "=",
        _native_in_place,
        f"__{_name}__",
        f"__r{_name}__",
        f"__i{_name}__",
        "INPLACE_ADD" if _symbol == "+" else "BINARY_OPERATION",
    )

COMPARISONS: dict[str, Operation] = {
    symbol: Operation(symbol, native, f"__{name}__", f"__{reflected}__", None, instruction)
    for symbol, name, reflected, native, instruction in [
        ("<", "lt", "gt", operator.lt, "COMPARE_LESS"),
        ("<=", "le", "ge", operator.le, "COMPARE"),
        ("==", "eq", "eq", operator.eq, "COMPARE_EQUAL"),
        ("!=", "ne", "ne", operator.ne, "COMPARE"),
        (">", "gt", "lt", operator.gt, "COMPARE"),
        (">=", "ge", "le", operator.ge, "COMPARE"),
    ]
}
