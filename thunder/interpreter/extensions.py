"""Extensions: what every interpreter that is made within a block has besides its own.

`with extended(...)` reaches the interpreters that others make, such as the one with which `thunder.jit` acquires a
program at its first call:

    with extended(lookasides={load: cached_load}, is_opaque=is_library, log=progress):
        compiled(x)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .frame import Frame

Lookasides = Mapping[Any, Callable[..., Any]]
IsOpaque = Callable[[FunctionType], bool]
Log = Callable[["Frame", str, Any], None]


class Extension(NamedTuple):
    """The arguments of one `extended` block."""

    lookasides: Lookasides
    is_opaque: IsOpaque | None
    log: Log | None


_active: list[Extension] = []


@contextlib.contextmanager
def extended(
    *, lookasides: Lookasides | None = None, is_opaque: IsOpaque | None = None, log: Log | None = None
) -> Iterator[None]:
    """Within the block new interpreters also have these look-asides, opaque functions and log.

    Args:
        lookasides: `{callable: replacement(interp, *args, **kwargs)}`, instead of the interpreter's own for the same.
        is_opaque: functions for which it holds run natively, besides those for which the interpreter's own holds.
        log: called as `log(frame, instruction name, operand)` before each instruction, unless there is a log.

    Blocks nest; the innermost has the last word.
    """
    extension = Extension(lookasides or {}, is_opaque, log)
    _active.append(extension)
    try:
        yield
    finally:
        _active.remove(extension)


def with_extensions(
    lookasides: Lookasides | None, is_opaque: IsOpaque | None, log: Log | None
) -> tuple[Lookasides, IsOpaque | None, Log | None]:
    """An interpreter's arguments, and what the active blocks add to them."""
    if not _active:
        return lookasides or {}, is_opaque, log
    merged = dict(lookasides or {})
    tests = [] if is_opaque is None else [is_opaque]
    for extension in _active:
        merged.update(extension.lookasides)
        if extension.is_opaque is not None:
            tests.append(extension.is_opaque)
    for extension in reversed(_active):
        log = log or extension.log
    return merged, (lambda function: any(test(function) for test in tests)) if tests else None, log
