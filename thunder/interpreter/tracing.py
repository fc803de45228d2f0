"""`sys.settrace` for interpreted code: call, line, return, exception and opcode events, as CPython makes them.

While some thread traces, the instructions of the programs that run are replaced *in place* by ones that make the
events first, also under the feet of frames that are running; when the last thread stops, the originals are put back.
So untraced programs pay nothing.  A trace function runs interpreted, and is not traced itself.

Input: the trace function of each thread.  Invariant: a program is in `_originals` exactly while it is replaced.
"""

from __future__ import annotations

import opcode
import sys
from _thread import get_ident
from collections.abc import Callable
from types import CodeType
from typing import Any

from .frame import Frame, running_frames
from .program import Program

_RETURNS = frozenset({"RETURN_VALUE", "RETURN_CONST"})
_RESUME = opcode.opmap.get("RESUME")


class FrameTrace:
    """What tracing knows about one frame."""

    __slots__ = ("index", "is_suspended", "line")

    def __init__(self) -> None:
        self.line: int | None = None  # the last line that was told
        self.index = -1  # the last instruction that was seen
        self.is_suspended = False


class Tracing:
    """The trace functions of an interpreter's threads, and the programs that are replaced for them."""

    def __init__(self, interp: Any) -> None:
        self.interp = interp
        self.functions: dict[int, Callable[..., Any]] = {}
        self._busy: set[int] = set()  # threads that are executing a trace function
        self._originals: dict[int, tuple[Program, list[Any]]] = {}

    def set_function(self, function: Any) -> None:
        """`sys.settrace(function)`, for the calling thread."""
        if function is None:
            self.functions.pop(get_ident(), None)
            if not self.functions:
                self._restore()
            return
        begins = not self.functions
        self.functions[get_ident()] = function
        if begins:
            self.interp.programs.clear()  # each function is looked at again when it is called
        for frame in running_frames(sys._getframe()):
            self.replace(frame.program)
            _state(frame).index = frame.index()
            _state(frame).line = frame.f_lineno

    def function(self) -> Any:
        """`sys.gettrace()`, for the calling thread."""
        return self.functions.get(get_ident())

    def replace(self, program: Program) -> None:
        """Makes a program's instructions tell what they do."""
        if id(program) in self._originals:
            return
        instructions = program.instructions
        original = list(instructions)
        self._originals[id(program)] = (program, original)
        first = _first_traceable(program)
        for index in range(first, len(original)):
            handler, operand = original[index]
            instructions[index] = (self._traced, (index, program.names[index], handler, operand))

    def _restore(self) -> None:
        for program, original in self._originals.values():
            program.instructions[:] = original
        self._originals.clear()

    # Events.

    def _traced(self, frame: Frame, stack: list[Any], operand: tuple[int, str, Any, Any]) -> Any:
        """Stands in for the handler of an instruction."""
        index, name, handler, own_operand = operand
        thread = get_ident()
        if thread not in self.functions or thread in self._busy:
            return handler(frame, stack, own_operand)
        state: FrameTrace | None = frame.tracing
        if state is None or state.is_suspended:
            state = self._call(frame)
        if frame.f_trace is not None:
            line = frame.program.line_or_none(index)
            if line is not None and frame.f_trace_lines and (line != state.line or index < state.index):
                self._tell(frame, "line", None)
            if frame.f_trace_opcodes:
                self._tell(frame, "opcode", None)
            if line is not None:
                state.line = line
        state.index = index
        reason = handler(frame, stack, own_operand)
        if reason is not None:
            state.is_suspended = True
            self._return(frame, state, stack[-1])
        elif name in _RETURNS:
            self._return(frame, state, frame.result)
        return reason

    def _call(self, frame: Frame) -> FrameTrace:
        """A frame starts, or goes on after a suspension."""
        state = _state(frame)
        code = frame.program.code
        frame.shown_place = _place(frame, state) if state.is_suspended else (code.co_firstlineno, _start(code))
        state.is_suspended = False
        try:
            function = self.functions.get(get_ident())
            if function is not None:
                frame.f_trace = self._ask(function, frame, "call", None)
        finally:
            frame.shown_place = None
        return state

    def _return(self, frame: Frame, state: FrameTrace, value: Any) -> None:
        """A frame has executed its return or its `yield`, and still shows the line of it."""
        frame.shown_place = _place(frame, state)
        try:
            self._tell(frame, "return", value)
        finally:
            frame.shown_place = None

    def _tell(self, frame: Frame, event: str, argument: Any) -> None:
        """An event for the frame's own trace function, whose answer replaces it."""
        function = frame.f_trace
        if function is not None:
            answer = self._ask(function, frame, event, argument)
            if answer is not None:
                frame.f_trace = answer

    def _ask(self, function: Any, frame: Frame, event: str, argument: Any) -> Any:
        thread = get_ident()
        self._busy.add(thread)
        try:
            return self.interp.call(function, frame, event, argument)
        except BaseException:  # a boundary: as CPython, tracing ends when a trace function fails
            frame.f_trace = None
            self.set_function(None)
            raise
        finally:
            self._busy.discard(thread)

    def raised(self, frame: Frame, exception: BaseException) -> None:
        """An exception was raised in a frame, or came out of a call."""
        thread = get_ident()
        if thread in self.functions and thread not in self._busy:
            self._tell(frame, "exception", (type(exception), exception, exception.__traceback__))

    def unwound(self, frame: Frame) -> None:
        """An exception leaves a frame."""
        thread = get_ident()
        if thread in self.functions and thread not in self._busy:
            self._tell(frame, "return", None)


def _state(frame: Frame) -> FrameTrace:
    state: FrameTrace | None = frame.tracing
    if state is None:
        state = frame.tracing = FrameTrace()
    return state


def _place(frame: Frame, state: FrameTrace) -> tuple[int | None, int]:
    """The line and the offset of the last instruction that was seen."""
    program = frame.program
    return program.line_or_none(state.index), program.offsets[state.index]


def _start(code: CodeType) -> int:
    """The offset of RESUME, where calls are told; -1 in 3.10, which does not have it."""
    if _RESUME is None:
        return -1
    data = code.co_code
    return next((offset for offset in range(0, len(data), 2) if data[offset] == _RESUME), 0)


def _first_traceable(program: Program) -> int:
    """The first instruction after RESUME; what lies before prepares the frame."""
    if _RESUME is None:
        return next((index for index, offset in enumerate(program.offsets) if offset >= 0), 0)
    start = _start(program.code)
    return next((index for index, offset in enumerate(program.offsets) if offset > start), 0)
