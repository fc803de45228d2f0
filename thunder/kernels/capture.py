"""Whether kernels are captured in a CUDA graph of thunder's: what captures says it, kernels that begin early ask."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_own_capture: contextvars.ContextVar[bool] = contextvars.ContextVar("own_capture", default=False)


@contextlib.contextmanager
def own_capture() -> Iterator[None]:
    """Within the block, what is launched becomes a CUDA graph that holds a program of thunder's and nothing else."""
    token = _own_capture.set(True)
    try:
        yield
    finally:
        _own_capture.reset(token)


def is_own_capture() -> bool:
    """Whether what is launched now can only follow kernels of the same program."""
    return _own_capture.get()
