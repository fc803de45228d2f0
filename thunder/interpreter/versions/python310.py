"""What differs in CPython 3.10: a block stack instead of an exception table, an instruction for each operator, cells
in slots of their own, calls without NULL.

The block stack's instructions are in `handlers/blocks.py`.
"""

from __future__ import annotations

import opcode
from types import CodeType
from typing import Any

from ..operations import BINARY_OPERATIONS, COMPARISONS
from ..program import CO_ASYNC_GENERATOR, CO_VARARGS, CO_VARKEYWORDS
from .bytecode import JumpTo, Reader, Row, Table, nothing, same

_OPERATORS = {
    "ADD": "+", "SUBTRACT": "-", "MULTIPLY": "*", "TRUE_DIVIDE": "/", "FLOOR_DIVIDE": "//", "MODULO": "%",
    "POWER": "**", "MATRIX_MULTIPLY": "@", "AND": "&", "OR": "|", "XOR": "^", "LSHIFT": "<<", "RSHIFT": ">>",
}  # fmt: skip


def operator_row(symbol: str) -> Row:
    operation = BINARY_OPERATIONS[symbol]
    return lambda reader, number: [(operation.instruction, operation)]


def comparison(reader: Reader, number: int) -> list[tuple[str, Any]]:
    operation = COMPARISONS[opcode.cmp_op[number]]
    return [(operation.instruction, operation)]


def absolute(name: str) -> Row:
    """A row: jump to an instruction by its number."""
    return lambda reader, number: [(name, JumpTo(2 * number))]


def fixed(name: str, operand: int) -> Row:
    """A row: an instruction of the common set with an operand that the name implies."""
    return lambda reader, number: [(name, operand)]


def cell(name: str) -> Row:
    """A row: the operand counts cells, whose slots follow those of the local variables."""
    return lambda reader, number: [(name, len(reader.code.co_varnames) + number)]


def yield_value(reader: Reader, number: int) -> list[tuple[str, Any]]:
    if reader.code.co_flags & CO_ASYNC_GENERATOR:
        return [("ASYNC_GEN_WRAP", 0), ("YIELD_VALUE", 0)]
    return [("YIELD_VALUE", 0)]


def yield_from(reader: Reader, number: int) -> list[tuple[str, Any]]:
    return [("YIELD_FROM", JumpTo(reader.next_offset))]


def get_awaitable(reader: Reader, number: int) -> list[tuple[str, Any]]:
    """Newer versions say where the awaitable came from; here the instructions before tell."""
    before, previous = reader.previous
    if previous == "BEFORE_ASYNC_WITH":
        return [("GET_AWAITABLE", 1)]
    if previous == "WITH_EXCEPT_START" or (previous == "CALL_FUNCTION" and before == "DUP_TOP"):
        return [("GET_AWAITABLE", 2)]
    return [("GET_AWAITABLE", 0)]


def prologue(code: CodeType) -> list[tuple[str, Any]]:
    """What newer versions do with MAKE_CELL and COPY_FREE_VARS at the start of the code."""
    arguments = code.co_varnames[
        : code.co_argcount
        + code.co_kwonlyargcount
        + bool(code.co_flags & CO_VARARGS)
        + bool(code.co_flags & CO_VARKEYWORDS)
    ]
    result: list[tuple[str, Any]] = []
    for slot, name in enumerate(code.co_cellvars, len(code.co_varnames)):
        if name in arguments:
            result.append(("MAKE_CELL_OF_ARGUMENT", (slot, arguments.index(name))))
        else:
            result.append(("MAKE_CELL", slot))
    if code.co_freevars:
        result.append(("COPY_FREE_VARS", len(code.co_freevars)))
    return result


ROWS: dict[str, Row] = {
    "GEN_START": nothing,
    "ROT_TWO": fixed("SWAP", 2),
    "ROT_THREE": fixed("ROTATE", 3),
    "ROT_FOUR": fixed("ROTATE", 4),
    "ROT_N": same("ROTATE"),
    "DUP_TOP": fixed("COPY", 1),
    "COMPARE_OP": comparison,
    "JUMP_FORWARD": same("JUMP"),
    "JUMP_ABSOLUTE": absolute("JUMP"),
    "POP_JUMP_IF_FALSE": absolute("POP_JUMP_IF_FALSE"),
    "POP_JUMP_IF_TRUE": absolute("POP_JUMP_IF_TRUE"),
    "JUMP_IF_FALSE_OR_POP": absolute("JUMP_IF_FALSE_OR_POP"),
    "JUMP_IF_TRUE_OR_POP": absolute("JUMP_IF_TRUE_OR_POP"),
    "JUMP_IF_NOT_EXC_MATCH": absolute("JUMP_IF_NOT_EXC_MATCH"),
    "LOAD_CLOSURE": cell("LOAD_SLOT"),
    "LOAD_DEREF": cell("LOAD_DEREF"),
    "STORE_DEREF": cell("STORE_DEREF"),
    "DELETE_DEREF": cell("DELETE_DEREF"),
    "LOAD_CLASSDEREF": cell("LOAD_CLASS_CELL"),
    "CALL_METHOD": same("CALL"),
    "CALL_FUNCTION_EX": same("CALL_FUNCTION_EX_WITHOUT_NULL"),
    "MAKE_FUNCTION": same("MAKE_FUNCTION_WITH_NAME"),
    "YIELD_VALUE": yield_value,
    "YIELD_FROM": yield_from,
    "GET_AWAITABLE": get_awaitable,
    "MATCH_KEYS": same("MATCH_KEYS_AND_FLAG"),
    "MATCH_CLASS": same("MATCH_CLASS_AND_FLAG"),
    "POP_EXCEPT": same("POP_EXCEPT_BLOCK"),
    "RERAISE": same("RERAISE_TRIPLE"),
    "WITH_EXCEPT_START": same("WITH_EXCEPT_START_TRIPLE"),
    "END_ASYNC_FOR": same("END_ASYNC_FOR_BLOCK"),
}
for _name, _symbol in _OPERATORS.items():
    ROWS[f"BINARY_{_name}"] = operator_row(_symbol)
    ROWS[f"INPLACE_{_name}"] = operator_row(_symbol + "=")

TABLE = Table(
    ROWS,
    exception_table=False,
    cells_are_locals=False,
    prologue=prologue,
    epilogue=[("RERAISE_PENDING", 0)],
)
