"""Reading bytecode: what the versions have in common.

`translate(code, table)` turns a code object into a `Translation`: it folds EXTENDED_ARG and inline caches away,
applies the version's table of differences, resolves operands and jump targets, and decodes the exception table.

A version's `Table` lists, by CPython's own instruction names, only what differs from "the instruction of the same
name in the common set, with the operand kind that its handler was registered with".  A row of the table is a
function `row(reader, number) -> list of (name in the common set, operand)`.
"""

from __future__ import annotations

import opcode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from ..errors import UnsupportedInstructionError
from ..instructions import HANDLERS, OPERANDS, Operand
from ..program import HandlerRange, Translation


class JumpTo:
    """An operand that is the bytecode offset of a jump's target; `translate` replaces it by an index."""

    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset


Row = Callable[["Reader", int], list[tuple[str, Any]]]


@dataclass
class Table:
    """The differences of one Python version."""

    rows: dict[str, Row]
    unit: int = 2  # bytes that one unit of a jump distance stands for
    exception_table: bool = True
    cells_are_locals: bool = True  # cells share the slots of local variables (3.11 and newer)
    prologue: Callable[[CodeType], list[tuple[str, Any]]] | None = None
    epilogue: list[tuple[str, Any]] = field(default_factory=list)
    caches: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        entries = getattr(opcode, "_inline_cache_entries", {})
        if isinstance(entries, dict):
            self.caches = {opcode.opmap[name]: count for name, count in entries.items() if count}
        else:
            self.caches = {number: count for number, count in enumerate(entries) if count}


class Reader:
    """Where the translation of a code object stands; rows of a table read and write it."""

    __slots__ = ("code", "keyword_names", "next_offset", "offset", "previous", "table")

    def __init__(self, code: CodeType, table: Table) -> None:
        self.code = code
        self.table = table
        self.offset = 0
        self.next_offset = 0
        self.keyword_names: tuple[str, ...] = ()
        self.previous = ("", "")  # CPython's names of the two instructions before

    def forward(self, distance: int) -> JumpTo:
        return JumpTo(self.next_offset + distance * self.table.unit)

    def backward(self, distance: int) -> JumpTo:
        return JumpTo(self.next_offset - distance * self.table.unit)


def raw_instructions(code: CodeType, table: Table) -> Iterator[tuple[int, int, int, int]]:
    """(offset of the first EXTENDED_ARG, opcode, argument, offset of the next instruction) of each instruction."""
    data = code.co_code
    extended_arg = opcode.EXTENDED_ARG
    caches = table.caches
    position, start, argument = 0, 0, 0
    while position < len(data):
        number = data[position]
        argument |= data[position + 1]
        if number == extended_arg:
            argument <<= 8
            position += 2
            continue
        position += 2 + 2 * caches.get(number, 0)
        yield start, number, argument, position
        start, argument = position, 0


def same(name: str, kind: Operand | None = None) -> Row:
    """A row: the instruction is `name` of the common set, its operand resolved in the registered way."""

    def row(reader: Reader, number: int) -> list[tuple[str, Any]]:
        return [(name, resolve(reader, number, kind or OPERANDS[name]))]

    return row


def nothing(reader: Reader, number: int) -> list[tuple[str, Any]]:
    """A row: the instruction does nothing here."""
    return []


def resolve(reader: Reader, number: int, kind: Operand) -> Any:
    """The operand that the argument `number` stands for."""
    if kind is Operand.CONSTANT:
        return reader.code.co_consts[number]
    if kind is Operand.NAME:
        return reader.code.co_names[number]
    if kind is Operand.JUMP:
        return reader.forward(number)
    return number


def slots(code: CodeType, table: Table) -> tuple[tuple[str, ...], frozenset[int]]:
    """The names of the slots below the value stack, and the slots of which hold cells."""
    if table.cells_are_locals:
        names = code.co_varnames
        names += tuple(name for name in code.co_cellvars if name not in names) + code.co_freevars
        cells = set(code.co_cellvars)
        free = len(names) - len(code.co_freevars)
        return names, frozenset(slot for slot, name in enumerate(names) if name in cells or slot >= free)
    names = code.co_varnames + code.co_cellvars + code.co_freevars
    return names, frozenset(range(len(code.co_varnames), len(names)))


def translate(code: CodeType, table: Table) -> Translation:
    """Translates a code object into the common instruction set."""
    reader = Reader(code, table)
    rows = table.rows
    names = opcode.opname
    result: list[tuple[int, str, Any]] = []
    if table.prologue is not None:
        result += [(-1, name, operand) for name, operand in table.prologue(code)]
    index_of: dict[int, int] = {}
    for offset, number, argument, next_offset in raw_instructions(code, table):
        index_of[offset] = len(result)
        instruction_offset = next_offset - 2 - 2 * table.caches.get(number, 0)
        index_of[instruction_offset] = len(result)
        reader.offset, reader.next_offset = instruction_offset, next_offset
        name = names[number]
        row = rows.get(name)
        if row is not None:
            for common_name, operand in row(reader, argument):
                result.append((instruction_offset, common_name, operand))
        elif name in HANDLERS:
            result.append((instruction_offset, name, resolve(reader, argument, OPERANDS[name])))
        else:
            raise UnsupportedInstructionError(name, code.co_filename, code.co_firstlineno)
        reader.previous = (reader.previous[1], name)
    index_of[len(code.co_code)] = len(result)
    result += [(len(code.co_code) - 2, name, operand) for name, operand in table.epilogue]
    resolved = [
        (offset, name, index_of[operand.offset] if type(operand) is JumpTo else operand)
        for offset, name, operand in result
    ]
    ranges = exception_ranges(code, index_of) if table.exception_table else []
    local_names, cell_slots = slots(code, table)
    return Translation(resolved, ranges, local_names, cell_slots)


def exception_ranges(code: CodeType, index_of: dict[int, int]) -> list[HandlerRange]:
    """Decodes `co_exceptiontable`: numbers of six bits a byte, the top bit marks the start of an entry."""
    data = iter(code.co_exceptiontable)

    def number() -> int:
        byte = next(data)
        value = byte & 63
        while byte & 64:
            byte = next(data)
            value = (value << 6) | (byte & 63)
        return value

    ranges: list[Any] = []
    while True:
        try:
            start = number() * 2
        except StopIteration:
            return ranges
        end = start + number() * 2
        target = number() * 2
        depth_and_flag = number()
        ranges.append(
            (
                nearest(index_of, start),
                nearest(index_of, end),
                index_of[target],
                depth_and_flag >> 1,
                bool(depth_and_flag & 1),
            )
        )


def nearest(index_of: dict[int, int], offset: int) -> int:
    """The index of the first instruction at or after `offset` (which may lie inside an inline cache)."""
    while offset not in index_of:
        offset += 2
    return index_of[offset]
