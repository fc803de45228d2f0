"""Frames: the state of one call of an interpreted function.

A `Frame` holds one Python list, `stack`, laid out as CPython lays out a frame: first the local variables (and,
in the same list, cells of variables that closures share), then the value stack.  An unbound variable and the
"no self" slot of a call are both the sentinel `NULL`.

Frames are driven by native Python functions (the *drivers* in `loop`): a call that is interpreted has exactly one
native frame of a driver for each level of exception handler it is in.  The native call stack is therefore the
only record of who called whom; nothing is maintained during execution.  `running_frames` walks the native stack
and finds the interpreted frames on it.  This stays right in threads and in suspended generators without any
bookkeeping.

Position: a driver iterates over the list of decoded instructions with an ordinary list iterator.  The position is
the iterator's index, obtained from `__length_hint__`, and a jump is the iterator's `__setstate__`.

A frame answers to the attributes of a native frame object (`f_code`, `f_locals`, `f_back`, ...), and claims to be
one (`__class__`), because `sys._getframe` hands it to interpreted code.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any

from .frame_locals import FrameLocalsProxy, kept_dictionary, namespace_of, new_dictionary
from .null import NULL as NULL
from .null import Null

if TYPE_CHECKING:
    from .interpreter import Interpreter
    from .program import Program


_PACKAGE_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Programs that live in the package but run on top of the interpreter.
_PROGRAMS = (_PACKAGE_DIRECTORY + "conformance" + os.sep, _PACKAGE_DIRECTORY + "benchmark.py")


def is_internal(code: CodeType) -> bool:
    """Whether a code object is part of the interpreter."""
    filename = code.co_filename
    return filename.startswith(_PACKAGE_DIRECTORY) and not filename.startswith(_PROGRAMS)


LEFT_HANDLER = Null()
"""What a nested driver returns when the exception handler that it ran has ended (POP_EXCEPT)."""
SWITCHED = Null()
"""What a nested driver returns when from now on `frame.pending` is the exception being handled (`except*`)."""
END = sys.maxsize
"""A jump here ends the driver's iteration: list iterators clamp positions to the length of their list."""

DRIVER_CODE_IDS: set[int] = set()
"""Ids of the code objects of the drivers; `loop` fills it."""
DRIVEN_CODE: dict[int, tuple[weakref.ref[CodeType], weakref.ref[CodeType]]] = {}
"""The interpreted code object, after that of the driver that was made for it, by the id of the latter."""


_HAS_PROXIES = sys.version_info >= (3, 13)
_DEFAULTS = {
    "depth": 0,
    "f_trace": None,
    "f_trace_lines": True,
    "f_trace_opcodes": False,
    "kept_code": None,
    "kept_locals": None,
    "origin": None,
    "shown_place": None,
    "tracing": None,
}


class Frame:
    """One activation of an interpreted code object."""

    __slots__ = (
        "__weakref__",
        "blocks",
        "builtins",
        "depth",
        "f_trace",
        "f_trace_lines",
        "f_trace_opcodes",
        "function",
        "globals",
        "in_handler",
        "instructions",
        "interpreter",
        "iterator",
        "jump",
        "kept_back",
        "kept_code",
        "kept_locals",
        "names",
        "native_generator",
        "origin",
        "pending",
        "position",
        "program",
        "raised_at",
        "reraising",
        "result",
        "shown_place",
        "stack",
        "tracing",
        "tracker",
    )

    program: Program
    function: Any  # a FunctionType or None; a class attribute of function type would bind
    interpreter: Interpreter
    tracker: Any  # a Tracker in the handlers that are chosen when there is one, else None
    blocks: list[Any]
    iterator: Any  # a list iterator: its position can be set, which types do not know
    jump: Callable[[int], None]
    names: Any
    pending: Any
    native_generator: Any  # a weak reference to the generator or coroutine that executes the frame
    origin: Any  # `cr_origin`
    depth: int  # see `recursion`; 0: not known
    kept_code: CodeType | None  # of a frame without a function: see `program`
    kept_locals: dict[Any, Any] | None  # see `frame_locals`
    f_trace: Any
    f_trace_lines: bool
    f_trace_opcodes: bool
    raised_at: int | None
    result: Any
    shown_place: tuple[int | None, int] | None  # (line, offset) during an event that lies beside an instruction
    tracing: Any  # what `tracing` knows about the frame

    def __init__(
        self,
        interpreter: Interpreter,
        program: Program,
        function: FunctionType | None,
        global_names: dict[str, Any],
        builtins: dict[str, Any],
        stack: list[Any],
    ) -> None:
        self.interpreter = interpreter
        self.tracker = interpreter.tracker
        self.program = program
        self.instructions = program.instructions
        self.function = function
        self.globals = global_names
        self.builtins = builtins
        self.stack = stack
        self.position = 0
        self.reraising = False
        self.in_handler = False
        interpreter.frames_left -= 1
        if interpreter.frames_left < 0:
            interpreter.count_frames()

    def __getattr__(self, name: str) -> Any:
        """What is set only when it is used has a value nevertheless."""
        try:
            return _DEFAULTS[name]
        except KeyError:
            raise AttributeError(f"'frame' object has no attribute '{name}'") from None

    # What users of the interpreter read.

    @property
    def code(self) -> CodeType:
        return self.program.code

    @property
    def back(self) -> Frame | None:
        """The interpreted frame that called this one; None when this one is not running or is the outermost."""
        found = False
        for frame in running_frames(sys._getframe()):
            if found:
                return frame
            found = frame is self
        return None

    def visible_back(self) -> Any:
        """As `back`, but native frames in between count, and a frame that was asked before remembers."""
        frames = visible_frames(sys._getframe())
        for frame, outer in zip(frames, [*frames[1:], None]):
            if frame is self:
                self.kept_back = outer
                return outer
        return getattr(self, "kept_back", None)

    def index(self) -> int:
        """Index of the instruction that runs now (or ran last)."""
        iterator = getattr(self, "iterator", None)
        if iterator is None:
            return self.position
        return max(len(self.instructions) - iterator.__length_hint__() - 1, 0)

    def shown_index(self) -> int:
        """As `index`, but after a re-raise the instruction that raised first."""
        raised_at = getattr(self, "raised_at", None)
        return self.index() if raised_at is None else raised_at

    def lineno(self) -> int:
        """The line in the user's source that runs now."""
        return self.program.line(self.shown_index())

    # The face of a native frame object.

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return FrameType

    @property
    def f_code(self) -> CodeType:
        return self.program.code

    @property
    def f_globals(self) -> dict[str, Any]:
        return self.globals

    @property
    def f_builtins(self) -> dict[str, Any]:
        return self.builtins

    @property
    def f_back(self) -> Any:
        return self.visible_back()

    @property
    def f_lineno(self) -> int | None:
        if self.shown_place is not None:
            return self.shown_place[0]
        return self.program.line_or_none(self.shown_index())

    @property
    def f_lasti(self) -> int:
        if self.shown_place is not None:
            return self.shown_place[1]
        return self.program.offsets[self.index()] if hasattr(self, "iterator") else -1

    @property
    def f_generator(self) -> Any:
        reference = getattr(self, "native_generator", None)
        return None if reference is None else reference()

    @property
    def f_locals(self) -> Any:
        if not _HAS_PROXIES:
            return self.local_names()
        if self.program.is_optimized or namespace_of(self) is not self.names:
            return FrameLocalsProxy(self)
        return self.names

    def local_names(self) -> Any:
        """The mapping that `locals()` returns."""
        if not self.program.is_optimized:
            return namespace_of(self)
        return new_dictionary(self) if _HAS_PROXIES else kept_dictionary(self)

    def clear(self) -> None:
        """Drops the local variables, as `frame.clear()` does; a suspended generator is closed, up to 3.12."""
        if any(frame is self for frame in running_frames(sys._getframe())):
            raise RuntimeError("cannot clear an executing frame")
        generator = self.f_generator
        for attribute in ("gi_frame", "cr_frame", "ag_frame"):
            native = getattr(generator, attribute, None)
            if native is None:
                continue
            if attribute == "ag_frame" or not hasattr(self, "iterator"):
                native.clear()
            elif sys.version_info >= (3, 13):
                raise RuntimeError("cannot clear a suspended frame")
            else:
                generator.close()
        self.stack.clear()
        self.kept_locals = None

    def __repr__(self) -> str:
        code = self.program.code
        return f"<frame at {id(self):#x}, file {code.co_filename!r}, line {self.lineno()}, code {code.co_name}>"


def running_frames(native: FrameType | None) -> Iterator[Frame]:
    """The interpreted frames on the native call stack that ends in `native`, innermost first."""
    last = None
    while native is not None:
        if id(native.f_code) in DRIVER_CODE_IDS:
            frame = native.f_locals["frame"]
            if frame is not last:
                last = frame
                yield frame
        native = native.f_back


def visible_frames(native: FrameType | None) -> list[Any]:
    """What `sys._getframe` may show, innermost first: interpreted frames and, between them, native ones."""
    frames: list[Any] = []
    outermost = 0
    while native is not None:
        if id(native.f_code) in DRIVER_CODE_IDS:
            frame = native.f_locals["frame"]
            if not frames or frames[-1] is not frame:
                frames.append(frame)
            outermost = len(frames)
        elif not is_internal(native.f_code):
            frames.append(native)
        native = native.f_back
    return frames[:outermost]


def current_frame(native: FrameType | None) -> Frame | None:
    """The innermost interpreted frame below (outside) `native`."""
    while native is not None:
        if id(native.f_code) in DRIVER_CODE_IDS:
            return native.f_locals["frame"]
        native = native.f_back
    return None
