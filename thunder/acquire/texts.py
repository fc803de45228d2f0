"""Texts of tensors, whose values are not known while a program is acquired."""

from __future__ import annotations

from typing import Any

from thunder.errors import Location

_TEXT_MARK = "<tensor whose values are not known yet"


def tensor_text(location: Location | None) -> str:
    """What a tensor reads as while the program is acquired.

    Programs put tensors into messages that nobody reads.  A text that leaves the program is an error
    (`is_tensor_text`).
    """
    where = f" at {location.filename}:{location.line}" if location is not None else ""
    return f"{_TEXT_MARK}{where}>"


def is_tensor_text(value: Any) -> bool:
    """Whether a string was made from a tensor's unknown values."""
    return isinstance(value, str) and _TEXT_MARK in value
