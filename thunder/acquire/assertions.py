"""Which decision of a program is that of an `assert` statement.

Input: the frame in which the truth of a value is asked for.  Output: the truth with which the program goes on, where
the other one raises `AssertionError`.  Such a decision needs no value while a program is acquired: what it asks
becomes a check of the program.
"""

from __future__ import annotations

import dis
from typing import Any


def asserted_truth(frame: Any) -> bool | None:
    """The truth that an `assert` wants of the value that is tested now; None in any other place."""
    instructions = [step for step in dis.get_instructions(frame.f_code) if step.opname != "CACHE"]
    positions = {step.offset: index for index, step in enumerate(instructions)}
    index = positions.get(frame.f_lasti)
    if index is None:
        return None
    if instructions[index].opname == "TO_BOOL":
        index += 1
    jump = instructions[index]
    if not jump.opname.startswith("POP_JUMP") or not jump.opname.endswith(("IF_TRUE", "IF_FALSE")):
        return None
    on_true, next_step = jump.opname.endswith("IF_TRUE"), _after(instructions, index + 1)
    if next_step.opname == "LOAD_ASSERTION_ERROR":
        return on_true
    if _after(instructions, positions.get(jump.argval, index)).opname == "LOAD_ASSERTION_ERROR":
        return not on_true
    return None


def _after(instructions: list[dis.Instruction], index: int) -> dis.Instruction:
    """The instruction at a place, past what does nothing."""
    while instructions[index].opname in ("NOP", "NOT_TAKEN", "EXTENDED_ARG"):
        index += 1
    return instructions[index]
