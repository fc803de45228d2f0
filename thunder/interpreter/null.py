"""The sentinel that stands for "nothing is here": an unbound variable, the missing receiver of a call."""

from __future__ import annotations


class Null:
    """Type of the sentinel `NULL`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NULL"


NULL = Null()
