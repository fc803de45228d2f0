"""What differs in CPython 3.12: LOAD_ATTR and LOAD_SUPER_ATTR flag methods, intrinsics, comprehensions are inlined."""

from __future__ import annotations

import opcode
from typing import Any

from .bytecode import Reader, Row, Table, nothing, same
from .python311 import (
    backward,
    binary_operation,
    call,
    comparison,
    keyword_names,
    load_global,
)

# By name, because numbers shift between versions. Those that are missing here are executed natively.
INTRINSICS: dict[str, list[str]] = {
    "INTRINSIC_PRINT": ["PRINT_EXPR", "PUSH_NONE"],
    "INTRINSIC_IMPORT_STAR": ["IMPORT_STAR", "PUSH_NONE"],
    "INTRINSIC_STOPITERATION_ERROR": ["STOP_ITERATION_ERROR"],
    "INTRINSIC_ASYNC_GEN_WRAP": ["ASYNC_GEN_WRAP"],
    "INTRINSIC_UNARY_POSITIVE": ["UNARY_POSITIVE"],
    "INTRINSIC_LIST_TO_TUPLE": ["LIST_TO_TUPLE"],
    "INTRINSIC_PREP_RERAISE_STAR": ["PREP_RERAISE_STAR"],
}


def intrinsic(names: list[str], native: str) -> Row:
    """A row: the instructions that an intrinsic stands for, or its native execution."""

    def row(reader: Reader, number: int) -> list[tuple[str, Any]]:
        replacements = INTRINSICS.get(names[number])
        return [(native, number)] if replacements is None else [(name, 0) for name in replacements]

    return row


intrinsic_1 = intrinsic(opcode._intrinsic_1_descs, "NATIVE_INTRINSIC_1")  # type: ignore[attr-defined]
intrinsic_2 = intrinsic(opcode._intrinsic_2_descs, "NATIVE_INTRINSIC_2")  # type: ignore[attr-defined]


def load_attribute(reader: Reader, number: int) -> list[tuple[str, Any]]:
    return [("LOAD_METHOD" if number & 1 else "LOAD_ATTR", reader.code.co_names[number >> 1])]


def load_super_attribute(reader: Reader, number: int) -> list[tuple[str, Any]]:
    """The operand tells the name, whether `super` has arguments, and where a NULL goes."""
    return [("LOAD_SUPER_ATTR", (reader.code.co_names[number >> 2], bool(number & 2), number & 1))]


def for_loop(skipped_units: int) -> Row:
    """A row: the exhausted iterator is popped, and the instructions that end the loop are skipped."""

    def row(reader: Reader, number: int) -> list[tuple[str, Any]]:
        return [("FOR_ITER", reader.forward(number + skipped_units))]

    return row


def compare_312(reader: Reader, number: int) -> list[tuple[str, Any]]:
    return comparison(reader, number >> 4)


def return_constant(reader: Reader, number: int) -> list[tuple[str, Any]]:
    return [("RETURN_CONST", reader.code.co_consts[number])]


ROWS: dict[str, Row] = {
    "CACHE": nothing,
    "RESUME": nothing,
    "KW_NAMES": keyword_names,
    "CALL": call,
    "CALL_INTRINSIC_1": intrinsic_1,
    "CALL_INTRINSIC_2": intrinsic_2,
    "LOAD_ATTR": load_attribute,
    "LOAD_SUPER_ATTR": load_super_attribute,
    "LOAD_GLOBAL": load_global,
    "LOAD_CLOSURE": same("LOAD_SLOT"),
    "LOAD_FAST": same("LOAD_SLOT"),
    "BINARY_OP": binary_operation,
    "COMPARE_OP": compare_312,
    "FOR_ITER": for_loop(1),
    "END_FOR": nothing,  # never reached: FOR_ITER has popped the iterator
    "JUMP_FORWARD": same("JUMP"),
    "JUMP_BACKWARD": backward("JUMP"),
    "JUMP_BACKWARD_NO_INTERRUPT": backward("JUMP"),
}

TABLE = Table(ROWS)
