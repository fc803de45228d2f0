"""Programs: code objects, decoded once.

`program_of(code, tracked)` returns the `Program` of a code object: the list of `(handler, operand)` pairs with
caches, EXTENDED_ARG and version differences folded away, the table of exception handlers in terms of indices in
that list, and everything that binding arguments needs.

Programs are kept as long as their code object lives.  A program therefore refers to its code object weakly; who
executes it holds the code object: a frame through its function, or in its `kept_code`.

Invariants: `instructions` is a list (the drivers rely on list iterators); jump operands are indices in it;
`offsets[index]` is the bytecode offset that `instructions[index]` came from.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

from .frame import NULL
from .instructions import HANDLERS, TRACKED_HANDLERS, Handler

CO_OPTIMIZED = 0x1
CO_NEWLOCALS = 0x2
CO_VARARGS = 0x4
CO_VARKEYWORDS = 0x8
CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ITERABLE_COROUTINE = 0x100
CO_ASYNC_GENERATOR = 0x200


HandlerRange = tuple[int, int, int, int, bool]
"""(start, end, target, depth, push index): instructions from start up to end are covered by the handler at target."""


class Translation:
    """What a version's translator makes of a code object."""

    __slots__ = ("cell_slots", "handler_ranges", "instructions", "local_names")

    def __init__(
        self,
        instructions: list[tuple[int, str, Any]],
        handler_ranges: list[HandlerRange],
        local_names: tuple[str, ...],
        cell_slots: frozenset[int],
    ) -> None:
        self.instructions = instructions  # (bytecode offset, name in the common set, operand)
        self.handler_ranges = handler_ranges
        self.local_names = local_names  # one for each slot that lies below the value stack
        self.cell_slots = cell_slots  # slots that hold cells


class Program:
    """A decoded code object."""

    __slots__ = (
        "_reference",
        "base",
        "cell_slots",
        "driver",
        "flags",
        "handler_ranges",
        "instructions",
        "is_optimized",
        "keyword_index",
        "keyword_only",
        "lines",
        "local_names",
        "names",
        "offsets",
        "pinned_code",
        "positional",
        "simple_count",
        "stub",
        "suspends",
        "tail",
        "visible_locals",
    )

    def __init__(self, code: CodeType, translation: Translation, handlers: dict[str, Handler]) -> None:
        self._reference = weakref.ref(code)
        self.pinned_code: CodeType | None = None  # see `pin`
        self.flags = code.co_flags
        self.offsets = [offset for offset, _, _ in translation.instructions]
        self.names = [name for _, name, _ in translation.instructions]
        self.instructions = [(handlers[name], operand) for _, name, operand in translation.instructions]
        self.handler_ranges = translation.handler_ranges
        self.local_names = translation.local_names
        self.cell_slots = translation.cell_slots
        self.base = len(translation.local_names)
        self.is_optimized = bool(code.co_flags & CO_OPTIMIZED)
        self.suspends = bool(code.co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR))
        self.positional = code.co_argcount
        self.keyword_only = code.co_kwonlyargcount
        self.keyword_index = {
            name: slot
            for slot, name in enumerate(code.co_varnames[: self.positional + self.keyword_only])
            if slot >= code.co_posonlyargcount
        }
        variadic = bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
        argument_slots = self.positional + self.keyword_only + variadic
        self.tail = [NULL] * (self.base - argument_slots)
        # The number of positional arguments with which a call needs no binding at all; -1: always needs binding.
        self.simple_count = (
            -1 if self.keyword_only or variadic or self.suspends or not self.is_optimized else self.positional
        )
        free = set(code.co_freevars)
        self.visible_locals = [
            (slot, name)
            for slot, name in enumerate(translation.local_names)
            if name not in free or slot < len(code.co_varnames)
        ]
        self.stub: Any = None  # what `tracebacks` builds from the code object, when first needed
        self.driver: Any = None  # what `loop` makes for code that suspends
        self.lines: list[int | None] | None = None

    @property
    def code(self) -> CodeType:
        code = self._reference()
        assert code is not None, "the code object of a program that is used is alive"
        return code

    def pin(self) -> None:
        """Makes the code object live as long as the program: its function has got another one and may be running."""
        self.pinned_code = self.code

    def line_or_none(self, index: int) -> int | None:
        """The source line of an instruction; None for one that the compiler made up."""
        lines = self.lines
        if lines is None:
            spans = [span for span in self.code.co_lines() if span[1] > span[0]]
            lines = self.lines = []
            position = 0
            for offset in self.offsets:
                while position < len(spans) - 1 and spans[position][1] <= offset:
                    position += 1
                lines.append(spans[position][2] if spans and offset >= 0 else self.code.co_firstlineno)
        return lines[index] if index < len(lines) else self.code.co_firstlineno

    def line(self, index: int) -> int:
        """The source line of an instruction, or of the nearest before it that has one."""
        while index >= 0:
            line = self.line_or_none(index)
            if line is not None:
                return line
            index -= 1
        return self.code.co_firstlineno


class _Entry:
    """Programs of one code object, by flavour; forgotten when the code object dies."""

    __slots__ = ("programs", "reference")

    def __init__(self, reference: weakref.ref[CodeType]) -> None:
        self.reference = reference
        self.programs: dict[tuple[str, Any], Program] = {}


_entries: dict[int, _Entry] = {}

_FLAVOURS: dict[str, dict[str, Handler]] = {}


def _handlers(flavour: str) -> dict[str, Handler]:
    table = _FLAVOURS.get(flavour)
    if table is None:
        table = {**HANDLERS, **TRACKED_HANDLERS} if flavour == "tracked" else dict(HANDLERS)
        _FLAVOURS[flavour] = table
    return table


def _forget(entries: dict[int, _Entry], key: int, _: Any) -> None:
    """A code object died. The table is an argument because at shutdown the module's variables are gone."""
    entries.pop(key, None)


def decode(code: CodeType, flavour: str, translate: Callable[[CodeType], Translation], log: Any = None) -> Program:
    """Decodes `code` with the handlers of `flavour` ("plain" or "tracked"), or returns what was decoded before.

    With a `log`, each instruction is reported to it before it is executed.
    """
    key = id(code)
    entry = _entries.get(key)
    if entry is None or entry.reference() is not code:
        entry = _Entry(weakref.ref(code, functools.partial(_forget, _entries, key)))
        _entries[key] = entry
    program = entry.programs.get((flavour, log))
    if program is None:
        program = Program(code, translate(code), _handlers(flavour))
        if log is not None:
            program.instructions = [
                (_logged, (log, name, handler, operand))
                for name, (handler, operand) in zip(program.names, program.instructions)
            ]
        entry.programs[flavour, log] = program
    return program


def _logged(frame: Any, stack: list[Any], operand: tuple[Any, str, Handler, Any]) -> Any:
    """Stands in for a handler and reports to the log first."""
    log, name, handler, own_operand = operand
    log(frame, name, own_operand)
    return handler(frame, stack, own_operand)
