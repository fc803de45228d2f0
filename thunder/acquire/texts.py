"""Texts of tensors, whose values are not known while a program is acquired.

Programs put tensors into messages that nobody reads, so such a text may be made, kept and joined to others.  What
would depend on its characters (comparing, hashing, searching, cutting it) is refused, and so is a text that leaves the
program: a decision on what is not known yet is never taken.
"""

from __future__ import annotations

from typing import Any, NoReturn

from thunder.errors import DataDependentError, Location

_TEXT_MARK = "<tensor whose values are not known yet"


class TensorText(str):
    """A text that was made from the values of a tensor."""

    __slots__ = ("location",)
    location: Location | None

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise text_decides(self.location)

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __len__ = __getitem__ = __iter__ = __contains__ = __hash__ = _refuse

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return self

    def __format__(self, specification: str) -> str:
        try:
            return as_tensor_text(str.__format__(self, specification), self.location)
        except ValueError:  # a specification for numbers, one of which this stands for
            return self

    def __add__(self, other: Any) -> Any:
        return _or_not_implemented(str.__add__(self, other) if isinstance(other, str) else NotImplemented, self)

    def __radd__(self, other: Any) -> Any:
        return _or_not_implemented(str.__add__(other, self) if isinstance(other, str) else NotImplemented, self)


def _or_not_implemented(text: Any, origin: TensorText) -> Any:
    return text if text is NotImplemented else as_tensor_text(text, origin.location)


def text_decides(location: Location | None) -> DataDependentError:
    """The error for a decision on a text whose characters are not known yet."""
    return DataDependentError(
        "the program looks into a text that was made from the values of a tensor",
        location,
        "decide on shapes instead of values, or make the text outside of the compiled function",
    )


def tensor_text(location: Location | None) -> TensorText:
    """What a tensor reads as while the program is acquired."""
    where = f" at {location.filename}:{location.line}" if location is not None else ""
    return as_tensor_text(f"{_TEXT_MARK}{where}>", location)


def as_tensor_text(text: str, location: Location | None) -> TensorText:
    """A text of which a tensor's text has become a part; it is refused when it has become less than a part."""
    if not str.__contains__(text, _TEXT_MARK):
        raise text_decides(location)
    made = TensorText(text)
    made.location = location
    return made


def is_tensor_text(value: Any) -> bool:
    """Whether a text, or one in a tuple or frozen set, was made from a tensor's unknown values."""
    if isinstance(value, str):
        return str.__contains__(value, _TEXT_MARK)
    return isinstance(value, (tuple, frozenset)) and any(map(is_tensor_text, value))
