"""The recursion limit of an interpreted program, counted in the program's own frames.

Every interpreted call is several native ones, so the native limit is set higher and only protects the native stack.
The program's limit costs next to nothing: each new `Frame` counts `interpreter.frames_left` down, and only when that
is used up the stack is looked at.  A stack of `depth` frames needs `limit - depth` new ones to reach the limit, so
nothing is missed in between, but for generators that were made before and are resumed, and for other threads.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .frame import running_frames

if TYPE_CHECKING:
    from .interpreter import Interpreter

NATIVE_CALLS_PER_CALL = 8
_LARGEST_LIMIT = 2**31 - 1


def current_depth() -> int:
    """How many interpreted frames run in this thread."""
    inner = []
    depth = 0
    for frame in running_frames(sys._getframe(1)):
        if frame.depth:
            depth = frame.depth
            break
        inner.append(frame)
    for frame in reversed(inner):
        depth += 1
        if not frame.program.suspends:  # each resumption of a generator may be at another depth
            frame.depth = depth
    return depth


def set_limit(interp: Interpreter, limit: int) -> None:
    """Limits the depth of interpreted frames, and the native depth accordingly."""
    interp.recursion_limit = limit
    interp.frames_left = 0
    try:
        sys.setrecursionlimit(min(limit * NATIVE_CALLS_PER_CALL, _LARGEST_LIMIT))
    except RecursionError:
        pass  # so deep already natively; what the native stack has room for does not change


def count_frames(interp: Interpreter) -> None:
    """A frame is being made and `frames_left` is used up: looks at the stack, and fails if the limit is reached."""
    left = interp.recursion_limit - current_depth() - 1
    if left < 0:
        interp.frames_left = 0
        raise RecursionError("maximum recursion depth exceeded")
    interp.frames_left = left
