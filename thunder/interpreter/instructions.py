"""The registry of instructions: which function executes which instruction of the common instruction set.

The bytecode of every supported Python is translated (see `versions`) into one common instruction set.  An
instruction of this set is a name and one operand that is already resolved: a constant, a name, a local slot, the
index of the instruction to jump to, or a number.  A handler executes it:

    @instruction("LOAD_CONST", Operand.CONSTANT)
    def load_const(frame, stack, value):
        stack.append(value)

Input: the frame, its stack list, the operand.  Output: None (a true value asks a generator's driver to suspend).
A second handler may be registered for interpreters that have a tracker, with `@tracked("LOAD_CONST")`; without one
the plain handler serves both, so that neither kind of interpreter pays for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

Handler = Callable[..., Any]


class Operand(Enum):
    """How the number in the bytecode becomes the operand that the handler gets."""

    NUMBER = "number"
    CONSTANT = "constant"
    NAME = "name"
    LOCAL = "local"
    JUMP = "jump"


HANDLERS: dict[str, Handler] = {}
TRACKED_HANDLERS: dict[str, Handler] = {}
OPERANDS: dict[str, Operand] = {}


def instruction(name: str, operand: Operand = Operand.NUMBER) -> Callable[[Handler], Handler]:
    """Registers the handler of instruction `name`, for interpreters with and without a tracker."""

    def register(handler: Handler) -> Handler:
        HANDLERS[name] = handler
        OPERANDS[name] = operand
        return handler

    return register


def tracked(name: str) -> Callable[[Handler], Handler]:
    """Registers the handler that interpreters with a tracker use instead."""

    def register(handler: Handler) -> Handler:
        TRACKED_HANDLERS[name] = handler
        return handler

    return register
