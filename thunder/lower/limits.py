"""Why a program cannot be lowered."""

from __future__ import annotations

from thunder.trace import Op


class NotLowerable(Exception):
    """The functional form cannot express the program; the reason is a clause for the user to read.

    This never reaches the user as an error: the program runs operation by operation under PyTorch's own
    autograd instead, and the reason is noted.
    """

    def __init__(self, reason: str, op: Op | None = None) -> None:
        where = f" at {op.location}" if op is not None and op.location is not None else ""
        super().__init__(reason + where)


class CrossingMutation(NotLowerable):
    """A value is changed in place in one segment while a view of it made elsewhere is still in use.

    One segment for the whole program can express this.
    """
