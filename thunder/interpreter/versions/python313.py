"""What differs in CPython 3.13: `callable, NULL` in calls, superinstructions, functions get their parts one by one."""

from __future__ import annotations

from typing import Any

from .bytecode import Reader, Row, Table, nothing, same
from .python311 import backward, binary_operation, comparison
from .python312 import for_loop, intrinsic_1, intrinsic_2


def load_attribute(reader: Reader, number: int) -> list[tuple[str, Any]]:
    result: list[tuple[str, Any]] = [("LOAD_ATTR", reader.code.co_names[number >> 1])]
    return [*result, ("PUSH_NULL", 0)] if number & 1 else result


def load_super_attribute(reader: Reader, number: int) -> list[tuple[str, Any]]:
    return [("LOAD_SUPER_ATTR", (reader.code.co_names[number >> 2], bool(number & 2), 2 * (number & 1)))]


def load_global(reader: Reader, number: int) -> list[tuple[str, Any]]:
    result: list[tuple[str, Any]] = [("LOAD_GLOBAL", reader.code.co_names[number >> 1])]
    return [*result, ("PUSH_NULL", 0)] if number & 1 else result


def pair(first: str, second: str) -> Row:
    """A row: a superinstruction on two local variables."""

    def row(reader: Reader, number: int) -> list[tuple[str, Any]]:
        return [(first, number >> 4), (second, number & 15)]

    return row


def compare(reader: Reader, number: int) -> list[tuple[str, Any]]:
    result = comparison(reader, number >> 5)
    return [*result, ("TO_BOOL", 0)] if number & 16 else result


ROWS: dict[str, Row] = {
    "CACHE": nothing,
    "RESUME": nothing,
    "CALL": same("CALL_NULL_LAST"),
    "CALL_KW": same("CALL_KEYWORDS_NULL_LAST"),
    "CALL_FUNCTION_EX": same("CALL_FUNCTION_EX_NULL_LAST"),
    "CALL_INTRINSIC_1": intrinsic_1,
    "CALL_INTRINSIC_2": intrinsic_2,
    "LOAD_ATTR": load_attribute,
    "LOAD_SUPER_ATTR": load_super_attribute,
    "LOAD_GLOBAL": load_global,
    "LOAD_FAST": same("LOAD_SLOT"),
    "LOAD_FAST_LOAD_FAST": pair("LOAD_SLOT", "LOAD_SLOT"),
    "STORE_FAST_LOAD_FAST": pair("STORE_FAST", "LOAD_SLOT"),
    "STORE_FAST_STORE_FAST": pair("STORE_FAST", "STORE_FAST"),
    "BINARY_OP": binary_operation,
    "COMPARE_OP": compare,
    "MAKE_FUNCTION": same("MAKE_FUNCTION_OF_CODE"),
    "FOR_ITER": for_loop(2),
    "END_FOR": nothing,  # never reached: FOR_ITER has popped the iterator
    "JUMP_FORWARD": same("JUMP"),
    "JUMP_BACKWARD": backward("JUMP"),
    "JUMP_BACKWARD_NO_INTERRUPT": backward("JUMP"),
}

TABLE = Table(ROWS)
