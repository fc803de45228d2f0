"""Entries of a cache: programs linked with their computations, which hold the user's objects only while they are used.

An entry that is awake holds all that its program names: then a call costs no more than the guards.  Asleep it holds
none of that, and objects that only the program would keep die.  The next call wakes it; when an object is gone that it
needs, it fits no call any more.  Entries are put to sleep

- after their first call, and when a call fits no program (`CompiledFunction`),
- when Python collects its oldest generation, as `gc.collect()` does: what only entries hold is freed by then,
- after every call, where a program of the callable asks whether objects live (weak references).

Putting to sleep is safe at any moment: a call that runs goes on with what its function holds.
"""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Callable
from typing import Any

from thunder.acquire import Program
from thunder.executors import CompiledComputation

_OLDEST_GENERATION = 2


class Entry:
    """One specialisation: `call(args, kwargs)` answers as `Program.link` says.

    Args:
        linked: what `Program.link` gave.
        program, computation: that it was made of.
        stays_awake: the objects that it names are held for good (`cache="same input"`, which checks nothing).
    """

    def __init__(
        self,
        linked: types.FunctionType,
        program: Program,
        computation: CompiledComputation,
        *,
        stays_awake: bool = False,
    ) -> None:
        self.call: Callable[..., Any] = linked
        self.program = program
        self.computation = computation
        self.sleeps_between_calls = False
        self._link: Callable[[], types.FunctionType | None] | None = None
        if not stays_awake:
            program.let_go()
            self._link = program.relinking(linked)
            _entries.add(self)
            if _sleep_all not in gc.callbacks:
                gc.callbacks.append(_sleep_all)

    def sleep(self) -> None:
        """Lets go of the user's objects until the next call."""
        if self._link is not None:
            self.call = functools.partial(_wake_and_call, weakref.ref(self))

    def is_dead(self) -> bool:
        """Whether an object is gone that the program needs, so that it fits no call any more."""
        return self._link is not None and self._link() is None

    def wake(self) -> Callable[..., Any]:
        """What to call for the next call; from then on the objects are held, if they are all there."""
        if self._link is None:
            return self.call
        linked = self._link()
        if linked is None:
            return _fits_no_call
        if not self.sleeps_between_calls:
            self.call = linked
        return linked


def _wake_and_call(reference: weakref.ref[Entry], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    entry = reference()
    return -1 if entry is None else entry.wake()(args, kwargs)


def _fits_no_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return -1


def _sleep_all(phase: str, info: dict[str, int]) -> None:
    """Called by Python before and after each collection."""
    if phase == "start" and info["generation"] == _OLDEST_GENERATION:
        for entry in list(_entries):
            entry.sleep()


_entries: weakref.WeakSet[Entry] = weakref.WeakSet()
