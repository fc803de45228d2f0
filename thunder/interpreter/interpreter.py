"""The interpreter: the object that holds what the frames of one interpretation share.

`Interpreter(tracker, lookasides, is_opaque)` and `interpreter.call(function, *arguments)`; everything else here is
what look-asides and trackers build on.
"""

from __future__ import annotations

import builtins
import functools
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from . import attributes, iteration, operators, recursion
from .calling import call_value
from .classes import build_class
from .extensions import with_extensions
from .frame import NULL, Frame, current_frame, running_frames
from .lookasides import callback_lookasides, frame_lookasides, import_lookasides
from .lookup import bind_special, type_lookup
from .loop import run, suspended
from .program import Program, decode
from .tracebacks import is_internal, without_internal_frames
from .tracing import Tracing
from .tracker import Tracker
from .trampolines import original_code, trampoline
from .versions import translate_code


def _forget_code(tables: tuple[dict[int, Any], ...], key: int, _: Any) -> None:
    """A code object died."""
    for table in tables:
        table.pop(key, None)


def _forget_trampoline(table: dict[int, Any], key: int, reference: Any) -> None:
    """A trampoline died; there may be a newer one."""
    if table.get(key) is reference:
        del table[key]


class Interpreter:
    """Executes Python functions instruction by instruction.

    `tracker` is told of reads and writes.  `lookasides` maps callables to replacements, called as
    `replacement(interpreter, *arguments, **keywords)`.  A Python function for which `is_opaque` holds runs natively.
    `log(frame, instruction name, operand)` is called before each instruction.  `extended` blocks add to these.

    With `interprets_everything` the functions that interpreted code makes run interpreted whoever calls them, and
    `import` is interpreted too.
    """

    def __init__(
        self,
        tracker: Tracker | None = None,
        lookasides: Mapping[Any, Callable[..., Any]] | None = None,
        is_opaque: Callable[[FunctionType], bool] | None = None,
        *,
        log: Callable[[Frame, str, Any], None] | None = None,
        interprets_everything: bool = False,
    ) -> None:
        lookasides, is_opaque, log = with_extensions(lookasides, is_opaque, log)
        self.tracker = tracker
        if tracker is not None:
            tracker.interp = self
        self.is_opaque = is_opaque
        self.log = log
        self.tracing = Tracing(self)
        self.recursion_limit = self.frames_left = sys.maxsize  # see `recursion`
        self.origin_depth = 0  # as `sys.set_coroutine_origin_tracking_depth`
        self.profile_function: Any = None
        self.interprets_everything = interprets_everything
        self.lookasides: dict[Any, Callable[..., Any]] = dict(frame_lookasides())
        self.lookasides[builtins.__build_class__] = build_class
        self.lookasides.update(import_lookasides() if interprets_everything else callback_lookasides())
        self.lookasides.update(lookasides)
        self.method_lookaside_names = frozenset(
            function.__name__
            for function in self.lookasides
            if hasattr(function, "__objclass__")
            or not isinstance(getattr(function, "__self__", None), (NoneType, ModuleType))
        )
        # Functions of extension modules may be bound to something other than the module (pybind11 does so).
        self.extension_names = frozenset(
            function.__name__
            for function in self.lookasides
            if type(function) is BuiltinFunctionType and not isinstance(function.__self__, (ModuleType, type, NoneType))
        )
        self._replaced_code = {id(function.__code__) for function in self.lookasides if type(function) is FunctionType}
        # Programs by the id of the function's code object; False marks code that needs a closer look at each call.
        self.programs: dict[int, Any] = {}
        self._opaque_code: dict[int, bool] = {}
        # The code objects whose ids are keys above; what is known about one is forgotten when it dies.
        self._known_code: dict[int, weakref.ref[CodeType]] = {}
        self._trampolines: dict[int, weakref.ref[CodeType]] = {}  # each keeps the code that it stands for
        # What is known about classes, by their id: a class must not live longer for being known.
        self.plain_attributes: dict[int, set[str]] = {}
        self.plain_stores: dict[int, set[str]] = {}
        self.native_iterators: set[int] = set()
        self._known_classes: dict[int, weakref.ref[type]] = {}
        self._flavour = "plain" if tracker is None else "tracked"

    # Calls.

    def call(self, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
        """Calls `function` interpreted."""
        return call_value(self, function, arguments, keywords)

    def call_natively(self, function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """Calls something that is not interpreted."""
        tracker = self.tracker
        if tracker is None:
            return function(*arguments, **keywords)
        result = tracker.call_opaque(function, tuple(arguments), dict(keywords))
        return tracker.wrap(result) if type(result) in tracker.wrapped_types else result

    def program(self, code: CodeType) -> Program:
        """The decoded form of a code object."""
        program = decode(original_code(code), self._flavour, translate_code, self.log)
        if self.tracing.functions:
            self.tracing.replace(program)
        return program

    def admit(self, function: FunctionType, despite_lookaside: bool = False) -> Program | None:
        """The program of a function, remembered; None when it is opaque or has a look-aside."""
        code = function.__code__
        key = id(code)
        if key in self._replaced_code and not despite_lookaside:
            self.programs[key] = False
            return None
        opaque = self._opaque_code.get(key)
        if opaque is None:
            self._know_code(code)
            opaque = is_internal(original_code(code)) or (self.is_opaque is not None and bool(self.is_opaque(function)))
            self._opaque_code[key] = opaque
        if opaque:
            self.programs[key] = False
            return None
        program = self.program(code)
        self.programs[key] = False if key in self._replaced_code else program
        return program

    def _know_code(self, code: CodeType) -> None:
        key = id(code)

        tables = (self.programs, self._opaque_code, self._known_code)
        self._known_code[key] = weakref.ref(code, functools.partial(_forget_code, tables, key))

    # Where the program is.

    @property
    def frame(self) -> Frame | None:
        """The innermost interpreted frame of the calling thread."""
        return current_frame(sys._getframe(1))

    def user_stack(self) -> list[tuple[str, int, str]]:
        """(file name, line, function name) of each interpreted frame, outermost first."""
        frames = list(running_frames(sys._getframe(1)))
        return [(frame.code.co_filename, frame.lineno(), frame.code.co_name) for frame in reversed(frames)]

    # Python's protocols, with user code interpreted.

    def getattr(self, obj: Any, name: str) -> Any:
        """`obj.name`"""
        return attributes.get_attribute(self, obj, name)

    def setattr(self, obj: Any, name: str, value: Any) -> None:
        """`obj.name = value`"""
        attributes.set_attribute(self, obj, name, value)

    def delattr(self, obj: Any, name: str) -> None:
        """`del obj.name`"""
        attributes.delete_attribute(self, obj, name)

    def getitem(self, obj: Any, key: Any) -> Any:
        """`obj[key]`"""
        return operators.get_item(self, obj, key)

    def setitem(self, obj: Any, key: Any, value: Any) -> None:
        """`obj[key] = value`"""
        operators.set_item(self, obj, key, value)

    def delitem(self, obj: Any, key: Any) -> None:
        """`del obj[key]`"""
        operators.delete_item(self, obj, key)

    def truth(self, obj: Any) -> bool:
        """`bool(obj)`"""
        return operators.truth(self, obj)

    def iterate(self, obj: Any) -> Any:
        """`iter(obj)`"""
        return iteration.get_iterator(self, obj)

    def next_value(self, iterator: Any) -> Any:
        """The iterator's next value, or `NULL` when it is exhausted."""
        return iteration.next_value(self, iterator)

    def special(self, obj: Any, name: str) -> Any:
        """The special method `name` of an object, bound; `NULL` if its type has none."""
        return bind_special(self, obj, name)

    @staticmethod
    def type_lookup(cls: type, name: str, default: Any = NULL) -> Any:
        """The raw class attribute `name`, found along the method resolution order without running any code."""
        return type_lookup(cls, name, default)

    def remember_plain(self, memory: dict[int, set[str]], cls: type, name: str) -> None:
        """Accesses to attribute `name` of instances of `cls` run no Python code."""
        names = memory.get(id(cls))
        if names is None:
            self._know(cls)
            names = memory[id(cls)] = set()
        names.add(name)

    def remember_native_iterator(self, cls: type) -> None:
        """`__next__` of this class is not a Python function."""
        self._know(cls)
        self.native_iterators.add(id(cls))

    def _know(self, cls: type) -> None:
        key = id(cls)
        if key not in self._known_classes:
            self._known_classes[key] = weakref.ref(cls, lambda _: self._forget_class(key))

    def _forget_class(self, key: int) -> None:
        self._known_classes.pop(key, None)
        self.plain_attributes.pop(key, None)
        self.plain_stores.pop(key, None)
        self.native_iterators.discard(key)

    def forget_plain_attributes(self) -> None:
        """A class changed: what was known about attribute look-ups no longer holds."""
        self.plain_attributes.clear()
        self.plain_stores.clear()
        self.native_iterators.clear()

    # Functions that native code calls.

    def native_callable(self, function: Any) -> Any:
        """Something that native code can call as it would call `function`, which then runs interpreted."""
        target = function.__func__ if type(function) is MethodType else function
        if self.interprets_everything or not callable(function):
            return function
        if type(target) is not FunctionType and self.tracker is None:
            return function  # with a tracker, what a builtin reads is to be known: `map(len, lists)`

        def forward(*arguments: Any, **keywords: Any) -> Any:
            return call_value(self, function, arguments, keywords)

        return forward

    def code_to_install(self, code: CodeType) -> CodeType:
        """The code object that a function made by the program gets: its own, or a trampoline."""
        if not self.interprets_everything or code.co_name in (
            "<genexpr>",
            "<listcomp>",
            "<setcomp>",
            "<dictcomp>",
        ):
            return code
        key = id(code)
        reference = self._trampolines.get(key)
        installed = None if reference is None else reference()
        if installed is None:
            if is_internal(code):
                return code
            installed = trampoline(code, self._enter)
            forget = functools.partial(_forget_trampoline, self._trampolines, key)
            self._trampolines[key] = weakref.ref(installed, forget)
        return installed

    def _enter(self, code: CodeType, global_names: dict[str, Any], closure: Any, values: list[Any]) -> Any:
        """A trampoline was called with its arguments already bound."""
        program = self.program(code)
        function = FunctionType(code, global_names, code.co_name, None, closure)
        frame = Frame(self, program, function, global_names, function.__builtins__, values + program.tail)  # type: ignore[attr-defined]
        del values
        if not program.is_optimized:
            frame.names = global_names
        if program.suspends:
            return suspended(frame, code.co_name, getattr(code, "co_qualname", code.co_name))
        return run(frame)

    def count_frames(self) -> None:
        """As many frames were made as could be without coming near the recursion limit."""
        recursion.count_frames(self)

    @staticmethod
    def clean_traceback(error: BaseException) -> None:
        """Takes the interpreter's own frames out of an exception's traceback."""
        error.__traceback__ = without_internal_frames(error.__traceback__)
