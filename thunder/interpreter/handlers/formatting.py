"""f-strings."""

from __future__ import annotations

from typing import Any

from ..conversions import ascii_of, format_of, repr_of, str_of
from ..frame import Frame
from ..instructions import instruction

_CONVERSIONS = {1: str_of, 2: repr_of, 3: ascii_of}


def _touch(frame: Frame, value: Any) -> None:
    if frame.tracker is not None and type(value) in frame.tracker.container_types:
        frame.tracker.touch_deeply(value)


def _noticed(frame: Frame, text: str) -> str:
    return text if frame.tracker is None else frame.tracker.text(text)


@instruction("FORMAT_VALUE")
def format_value(frame: Frame, stack: list[Any], flags: int) -> None:
    """The low bits choose a conversion, bit 2 tells that a format specification lies on top."""
    specification = stack.pop() if flags & 4 else ""
    value = stack.pop()
    _touch(frame, value)
    if flags & 3:
        value = _CONVERSIONS[flags & 3](frame.interpreter, value)
    if type(value) is not str or specification:
        value = format_of(frame.interpreter, value, specification)
    stack.append(_noticed(frame, value))


@instruction("CONVERT_VALUE")
def convert_value(frame: Frame, stack: list[Any], conversion: int) -> None:
    _touch(frame, stack[-1])
    stack[-1] = _noticed(frame, _CONVERSIONS[conversion](frame.interpreter, stack[-1]))


@instruction("FORMAT_SIMPLE")
def format_simple(frame: Frame, stack: list[Any], _: int) -> None:
    value = stack[-1]
    if type(value) is not str:
        _touch(frame, value)
        stack[-1] = _noticed(frame, format_of(frame.interpreter, value, ""))


@instruction("FORMAT_WITH_SPEC")
def format_with_spec(frame: Frame, stack: list[Any], _: int) -> None:
    specification = stack.pop()
    _touch(frame, stack[-1])
    stack[-1] = _noticed(frame, format_of(frame.interpreter, stack[-1], specification))
