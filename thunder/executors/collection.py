"""Python's garbage collector, kept from running."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Within the block the garbage collector does not run.

    Compilers make many objects and drop few of them in cycles, while a full collection goes through everything that
    is imported; and what a collection frees may be in use by a capture.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
