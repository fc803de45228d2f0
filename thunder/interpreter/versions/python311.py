"""What differs in CPython 3.11: calls are PRECALL + CALL, jumps name their direction, LOAD_METHOD exists."""

from __future__ import annotations

import opcode
from typing import Any

from ..instructions import Operand
from ..operations import BINARY_OPERATIONS, COMPARISONS
from .bytecode import Reader, Row, Table, nothing, same


def backward(name: str) -> Row:
    """A row: jump backward."""

    def row(reader: Reader, number: int) -> list[tuple[str, Any]]:
        return [(name, reader.backward(number))]

    return row


def binary_operation(reader: Reader, number: int) -> list[tuple[str, Any]]:
    operation = BINARY_OPERATIONS[opcode._nb_ops[number][1]]  # type: ignore[attr-defined]
    return [(operation.instruction, operation)]


def comparison(reader: Reader, number: int) -> list[tuple[str, Any]]:
    operation = COMPARISONS[opcode.cmp_op[number]]
    return [(operation.instruction, operation)]


def keyword_names(reader: Reader, number: int) -> list[tuple[str, Any]]:
    reader.keyword_names = reader.code.co_consts[number]
    return []


def call(reader: Reader, number: int) -> list[tuple[str, Any]]:
    names, reader.keyword_names = reader.keyword_names, ()
    if names:
        return [("CALL_KEYWORDS", (number, names))]
    return [("CALL", number)]


def load_global(reader: Reader, number: int) -> list[tuple[str, Any]]:
    name = reader.code.co_names[number >> 1]
    return [("PUSH_NULL", 0), ("LOAD_GLOBAL", name)] if number & 1 else [("LOAD_GLOBAL", name)]


ROWS: dict[str, Row] = {
    "CACHE": nothing,
    "RESUME": nothing,
    "PRECALL": nothing,
    "KW_NAMES": keyword_names,
    "CALL": call,
    "LOAD_GLOBAL": load_global,
    "LOAD_CLOSURE": same("LOAD_SLOT"),
    "LOAD_CLASSDEREF": same("LOAD_CLASS_CELL"),
    "BINARY_OP": binary_operation,
    "COMPARE_OP": comparison,
    "JUMP_FORWARD": same("JUMP"),
    "JUMP_BACKWARD": backward("JUMP"),
    "JUMP_BACKWARD_NO_INTERRUPT": backward("JUMP"),
    "POP_JUMP_FORWARD_IF_FALSE": same("POP_JUMP_IF_FALSE"),
    "POP_JUMP_FORWARD_IF_TRUE": same("POP_JUMP_IF_TRUE"),
    "POP_JUMP_FORWARD_IF_NONE": same("POP_JUMP_IF_NONE"),
    "POP_JUMP_FORWARD_IF_NOT_NONE": same("POP_JUMP_IF_NOT_NONE"),
    "POP_JUMP_BACKWARD_IF_FALSE": backward("POP_JUMP_IF_FALSE"),
    "POP_JUMP_BACKWARD_IF_TRUE": backward("POP_JUMP_IF_TRUE"),
    "POP_JUMP_BACKWARD_IF_NONE": backward("POP_JUMP_IF_NONE"),
    "POP_JUMP_BACKWARD_IF_NOT_NONE": backward("POP_JUMP_IF_NOT_NONE"),
    "SEND": same("SEND_AND_DROP_RECEIVER", Operand.JUMP),
}

TABLE = Table(ROWS)
