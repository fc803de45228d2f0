"""Python whose effect or answer lies outside of the program: clocks, random numbers, files, printing, addresses.

Three things can be done with such a call, and the answer is never what it was while the program was acquired:

- an *effect* without an answer (`print`, `time.sleep`, `file.write`) is made by the epilogue, at every call;
- an *answer that stays* as long as the process (`os.getpid()`, `id(obj)`) is guarded;
- an *answer that differs from call to call* (`time.time()`, `open()`, the use of `random.random()`) decides that calls
  that get to it run in plain Python: `ImpureCallError` ends the acquisition, and what was read until then becomes their
  guards.  A random number that the program draws without using it (`drawn_numbers.py`) is an effect.

With `sharp_edges="warn"` or `"error"` each is reported with the user's line; the third is always.
"""

from __future__ import annotations

import _random
import datetime
import io
import os
import random
import sys
import time
import types
import uuid
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from thunder.acquire.drawn_numbers import (
    PYTHON_METHODS,
    DrawnNumber,
    is_shared_generator,
    kind_of_number,
    use,
)
from thunder.acquire.guards import is_plain, type_lookup
from thunder.acquire.texts import is_tensor_text
from thunder.acquire.tracker import AcquisitionTracker, not_foreign
from thunder.errors import (
    DataDependentError,
    ImpureCallError,
    Location,
    SharpEdgeError,
    SharpEdgeWarning,
    UnsupportedError,
)

_FILE_EFFECTS = frozenset({"write", "writelines", "flush"})
_OTHER_EVERY_TIME: tuple[Callable[..., Any], ...] = (
    input, open, os.urandom, time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic,
    time.monotonic_ns, time.process_time, time.process_time_ns, time.thread_time, time.localtime, time.gmtime,
    time.ctime, time.strftime, datetime.datetime.now, datetime.datetime.utcnow, datetime.datetime.today,
    datetime.date.today, uuid.uuid1, uuid.uuid4, os.open, os.read, os.write, os.stat, os.lstat, os.listdir, os.scandir,
    os.access, os.system, os.remove, os.rename, os.mkdir, os.rmdir, io.open,
)  # fmt: skip
_SAME_IN_A_PROCESS: tuple[Callable[..., Any], ...] = (os.getpid, os.getcwd)


class SharpEdges:
    """Look-asides for calls that reach outside of the program.

    Args:
        tracker: of the acquisition.
        location: gives the user's current line.
        mode: "allow", "warn" or "error".
        is_library: whether a file is not the user's.
    """

    def __init__(
        self,
        tracker: AcquisitionTracker,
        location: Callable[[], Location | None],
        mode: str,
        is_library: Callable[[str], bool],
    ) -> None:
        self.tracker = tracker
        self.location = location
        self.mode = mode
        self.is_library = is_library
        self._printed: list[tuple[torch.Tensor, int, Location | None]] = []
        self._seeded: dict[int, random.Random] = {}
        self._first_drawn: DrawnNumber | None = None
        tracker.foreign_method = self.foreign_method

    def table(self) -> dict[Any, Callable[..., Any]]:
        """The look-asides by the callable that each replaces."""
        table: dict[Any, Callable[..., Any]] = {
            print: self.print,
            time.sleep: self.sleep,
            id: self.id,
            hash: self.hash,
            _random.Random.seed: self.seed,
            random.Random.seed: self.seed,
        }
        for function in _OTHER_EVERY_TIME:
            table[function] = self.other_every_time(function)
        for function in _SAME_IN_A_PROCESS:
            table[function] = self.same_in_a_process(function)
        for function in (_random.Random.random, _random.Random.getrandbits, *PYTHON_METHODS):
            table[function] = self.random_number(function)
        for function in (random.Random.getstate, random.Random.setstate):
            table[function] = self.random_number(function)
        return table

    # Reports ----------------------------------------------------------------------------------------------------
    def report(self, what: str) -> None:
        """Says so, as `sharp_edges` wants it."""
        if self.mode == "allow":
            return
        if self.mode == "error":
            remedy = "move it out of the compiled function, or use sharp_edges='allow'"
            raise SharpEdgeError(what, self.location(), remedy)
        warnings.warn(f"{what}\n  at {self.location()}", SharpEdgeWarning, stacklevel=2)

    def refuse(self, call: str, remedy: str, where: Location | None = None) -> NoReturn:
        """The answer of a call is another one every time: calls that get here run in plain Python."""
        what = f"{call} has another answer at every call"
        kind = SharpEdgeError if self.mode == "error" else ImpureCallError
        raise kind(what, where or self.location(), remedy)

    # Answers ----------------------------------------------------------------------------------------------------
    def other_every_time(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = _name(function)

        def replacement(interp: Any, *args: Any, **kwargs: Any) -> Any:
            self.refuse(f"{name}()", "make the call outside of the compiled function, and pass what it answers")

        return replacement

    def same_in_a_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = _name(function)

        def replacement(interp: Any) -> Any:
            answer = function()
            self.tracker.prologue.call(function, [], answer, f"{name}() is unchanged")
            return answer

        return replacement

    def random_number(self, function: Any) -> Callable[..., Any]:
        """Numbers from Python's generators; one that the program makes and seeds itself is no concern."""
        name = function.__name__

        def replacement(interp: Any, generator: Any, *args: Any, **kwargs: Any) -> Any:
            if id(generator) in self._seeded:
                return function(generator, *args, **kwargs)
            return self.draw(f"{_name(function)}() of Python's random numbers", generator, name, args, kwargs)

        return replacement

    def draw(
        self, call: str, generator: Any, method: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> DrawnNumber:
        """A number that the epilogue draws; what the program does with it decides whether that is enough."""
        remedy = "draw it outside of the compiled function, or use torch.rand"
        stays = generator is not None and (is_shared_generator(generator) or self._stays(generator))
        kind = kind_of_number(method, arguments, keywords)
        if not stays or kind is None:
            self.refuse(call, remedy)
        self.report(f"{call} is drawn when the computation is done")
        self.tracker.heap.defer(getattr(generator, method), *arguments)
        self.tracker.has_drawn_numbers = True
        where = self.location()
        drawn = DrawnNumber(kind, lambda: self.refuse(call, remedy, where))
        if self._first_drawn is None:
            self._first_drawn = drawn
        return drawn

    def check_drawn(self) -> None:
        """The program has failed: it may have done so for want of a number that is only drawn when it runs."""
        if self._first_drawn is not None:
            use(self._first_drawn)

    def seed(self, interp: Any, generator: Any, *args: Any) -> Any:
        shared = generator is random._inst or id(generator) in self.tracker.known
        if shared or not args or args[0] is None:
            self.refuse("seed() of Python's random numbers", "seed outside of the compiled function")
        self._seeded[id(generator)] = generator
        return random.Random.seed(generator, *args)

    # Effects ----------------------------------------------------------------------------------------------------
    def print(self, interp: Any, *values: Any, file: Any = None, **options: Any) -> None:
        """Printed by the epilogue; texts are made now, but for tensors."""
        self.report("print() is called when the computation is done")
        if file is not None and not self._stays(file):
            self.refuse("print(file=...) to a file that the program is given", "print outside of the compiled function")
        shown = [self._shown(interp, value) for value in values]
        options = {key: value for key, value in options.items() if value is not None}
        if file is not None:
            options["file"] = file
        self.tracker.heap.defer(print, *shown, **options)

    def _shown(self, interp: Any, value: Any) -> Any:
        """What is printed later: a tensor itself, the text of anything else."""
        if isinstance(value, torch.Tensor):
            shadow: torch.Tensor = self.tracker.wrap(value)
            self._printed.append((shadow, shadow._version, self.location()))
            return shadow
        text = interp.call(str, value)
        if is_tensor_text(text):
            raise DataDependentError(
                "a text with a tensor's values is printed, which are not known yet",
                self.location(),
                "print the tensor itself: print('loss', loss)",
            )
        return text

    def check_printed(self) -> None:
        """Tensors are printed at the end: there they must still be what they were."""
        with torch._C.DisableTorchFunction():
            for shadow, version, location in self._printed:
                if shadow._version != version:
                    raise UnsupportedError(
                        "a tensor is printed here, and changed in place afterwards", location, "print x.clone()"
                    )

    def sleep(self, interp: Any, seconds: Any) -> None:
        self.report("time.sleep() is called when the computation is done")
        self.tracker.heap.defer(time.sleep, seconds)

    def foreign_method(self, owner: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What a method of an object from outside answers: a file's, a generator's of NumPy's."""
        kind = type(owner)
        if isinstance(owner, io.IOBase):
            if id(owner) not in self.tracker.known and owner not in (sys.stdout, sys.stderr):
                return not_foreign  # the program has made it itself
            if name in _FILE_EFFECTS and self._stays(owner) and all(map(is_plain, arguments)):
                if any(map(is_tensor_text, arguments)):
                    raise DataDependentError(
                        f"a text with a tensor's values is passed to {name}(), which are not known yet",
                        self.location(),
                        "write it outside of the compiled function",
                    )
                self.report(f"{name}() of a file is called when the computation is done")
                self.tracker.heap.defer(getattr(owner, name), *arguments)
                return None
            self.refuse(f"{name}() of a {kind.__qualname__}", "use the file outside of the compiled function")
        return self.draw(f"{name}() of NumPy's random numbers", owner, name, arguments, keywords)

    def _stays(self, outside: Any) -> bool:
        """Whether a file or generator is the same at every call."""
        source = self.tracker.known.get(id(outside))
        return outside is sys.stdout or outside is sys.stderr or (source is not None and source.stable)

    # Addresses --------------------------------------------------------------------------------------------------
    def id(self, interp: Any, obj: Any) -> int:
        """The address of an object that existed before the call is guarded where the user's own code asks for it."""
        found = self.tracker.input_of(obj) if isinstance(obj, torch.Tensor) else None
        if found is not None:
            source, obj = found
        else:
            source = self.tracker.known.get(id(obj))  # type: ignore[assignment]
        frame = interp.frame
        if not is_plain(obj) and frame is not None and not self.is_library(frame.code.co_filename):
            self.report("id() of an object differs from process to process, and from object to object")
            if source is not None and not source.stable:
                self.tracker.prologue.identical(source, obj)
        return id(obj)

    def hash(self, interp: Any, obj: Any) -> int:
        """By the class's own method; without one, the address."""
        method = type_lookup(type(obj), "__hash__")
        self.tracker.classes.lookup(type(obj), "__hash__")
        if isinstance(obj, torch.Tensor):
            return hash(_Hashed(self.id(interp, obj)))
        if isinstance(method, types.FunctionType):
            return hash(_Hashed(interp.call(method, obj)))
        if method is object.__hash__:
            self.id(interp, obj)
        return hash(obj)


class _Hashed:
    """Has a given hash: `hash` makes of it what it makes of an answer of `__hash__`."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __hash__(self) -> Any:
        return self.answer


def _name(function: Any) -> str:
    """A function as a user would write it."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return f"{owner.__name__}.{function.__name__}"
    module = getattr(function, "__module__", None)  # methods of C classes have none
    module = _MODULES.get(module, module)
    return f"{module}.{function.__name__}" if module else str(function.__name__)


_MODULES = {"builtins": "", "_io": "", "posix": "os", "nt": "os", None: ""}
