"""How a kernel's elements are spread over programs and threads.

Input: a `Kernel`.  Output: a `Schedule`, from a small table by size; nothing is tried at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from thunder import _torch_compat
from thunder.executors.triton_fusion.kernel import Kernel
from thunder.executors.triton_fusion.reductions import LONGEST_ROW_HELD

# Elements that a program of a pointwise kernel works on: 8 a thread, which are 16 bytes of a 16-bit dtype.
ELEMENTS_OF_A_PROGRAM = 1024


def enough_programs() -> int:
    """Programs that keep a large GPU busy; for Triton's interpreter, which runs one at a time, a few."""
    return 4 if _torch_compat.is_triton_interpreted() else 264


# Programs that go row by row: how many, in units of `enough_programs`, how many elements a thread has of a row, and how
# many rows are being loaded at a time.
CHUNK_PROGRAMS = 1.0
CHUNK_ELEMENTS = 16
CHUNK_STAGES = 3


def chunk_programs(columns: int) -> int:
    """How many programs go row by row, at most: more where rows are short."""
    return int(CHUNK_PROGRAMS * enough_programs() * max(1, min(2, 4096 // power_of_two(columns))))


@dataclass(frozen=True)
class Schedule:
    """Block sizes.

    Attributes:
        row_block, column_block: elements of a program (of one step of its loop) along each.
        is_looped: whether a program steps through the columns.
        warps: of 32 threads.
        wide_indices: whether element numbers need 64 bits.
        stages: rows that a program that goes row by row is loading at a time.
    """

    row_block: int
    column_block: int
    is_looped: bool
    warps: int
    wide_indices: bool
    stages: int = 1

    def programs(self, kernel: Kernel) -> int:
        """How many programs are launched."""
        if kernel.rows_of_program:
            return kernel.rows // kernel.rows_of_program
        return -(-kernel.rows // self.row_block)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << max(number - 1, 0).bit_length()


def choose_schedule(kernel: Kernel) -> Schedule:
    """Block sizes for a kernel."""
    wide = any(index.high >= 2**31 or index.low < -(2**31) for index in kernel.indices())
    wide = wide or kernel.rows >= 2**31 - 2**16
    if not kernel.reduces:
        return _pointwise(kernel, wide)
    if kernel.rows_of_program:
        columns = power_of_two(kernel.columns)
        warps = max(1, min(16, columns // (32 * CHUNK_ELEMENTS)))
        return Schedule(1, columns, False, warps, wide, CHUNK_STAGES)
    if kernel.columns > 1 and kernel.column_stride() != 1 and kernel.row_stride() == 1:
        return _columns_apart(kernel, wide)
    return _columns_together(kernel, wide)


def _pointwise(kernel: Kernel, wide: bool) -> Schedule:
    block, rows = ELEMENTS_OF_A_PROGRAM, kernel.rows
    while block > 128 and rows / block < enough_programs():
        block //= 2
    block = min(block, power_of_two(rows))
    return Schedule(block, 1, False, max(1, min(4, block // 128)), wide)


def _columns_together(kernel: Kernel, wide: bool) -> Schedule:
    """Each row is contiguous: threads lie along the row."""
    columns, rows = power_of_two(kernel.columns), kernel.rows
    if columns > LONGEST_ROW_HELD:
        return Schedule(1, 8192, True, 16, wide)
    row_block = 1
    while row_block * columns < 1024 and row_block < 64 and rows / (row_block * 2) >= enough_programs():
        row_block *= 2
    elements = row_block * columns
    a_thread = 16 if rows / row_block >= enough_programs() else 8
    warps = max(1, min(16, elements // (32 * a_thread)))
    return Schedule(min(row_block, power_of_two(rows)), columns, False, warps, wide)


def _columns_apart(kernel: Kernel, wide: bool) -> Schedule:
    """Neighbouring rows are contiguous: threads lie across rows, and each adds up its own columns."""
    row_block = min(64, power_of_two(kernel.rows))
    while row_block > 16 and kernel.rows / row_block < enough_programs() / 2:
        row_block //= 2
    column_block = 64
    if kernel.rows / row_block < enough_programs():
        # Few programs: each has to have much on the way at a time, or it waits for memory again and again.
        column_block = 8192 // row_block
    column_block = min(column_block, power_of_two(kernel.columns))
    is_looped = column_block < kernel.columns
    warps = max(1, min(8, row_block * column_block // (32 * 16)))
    return Schedule(row_block, column_block, is_looped, warps, wide)
