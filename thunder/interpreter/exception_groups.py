"""`except*`: splitting exception groups, and putting together what is to be raised again (3.11 and newer)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def match_group(
    interp: Any, exception: Any, wanted: Any, matches: Callable[[BaseException, Any], bool]
) -> tuple[Any, Any]:
    """(what is left, what `except* wanted` catches) of an exception; None where there is nothing."""
    if exception is None:
        return None, None
    if matches(exception, wanted):
        if isinstance(exception, BaseExceptionGroup):  # noqa: F821 - this module serves 3.11 and newer
            return None, exception
        group = BaseExceptionGroup("", [exception])  # noqa: F821
        group.__traceback__ = exception.__traceback__
        return None, group
    if isinstance(exception, BaseExceptionGroup):  # noqa: F821
        pair = interp.call(interp.getattr(exception, "split"), wanted)
        if not isinstance(pair, tuple):
            raise TypeError(f"{type(exception).__name__}.split must return a tuple, not {type(pair).__name__}")
        if len(pair) < 2:
            raise TypeError(f"{type(exception).__name__}.split must return a 2-tuple, got tuple of size {len(pair)}")
        match, rest = pair[0], pair[1]
        return rest, match
    return exception, None


def _same_origin(left: BaseException, right: BaseException) -> bool:
    """Whether one exception is (a part of) the other, raised again as it was."""
    return (
        getattr(left, "__notes__", None) is getattr(right, "__notes__", None)
        and left.__traceback__ is right.__traceback__
        and left.__cause__ is right.__cause__
        and left.__context__ is right.__context__
    )


def _leaves(exception: Any, into: set[int]) -> None:
    if isinstance(exception, BaseExceptionGroup):  # noqa: F821
        for part in exception.exceptions:
            _leaves(part, into)
    elif exception is not None:
        into.add(id(exception))


def _restrict(group: Any, keep: set[int]) -> Any:
    """The part of a group whose leaves are in `keep`."""
    return group.subgroup(lambda leaf: id(leaf) in keep)


def reraise_star(original: Any, raised: list[Any]) -> Any:
    """What a `try` with `except*` clauses raises at its end: `raised` holds what the clauses raised or left over."""
    raised = [item for item in raised if item is not None]
    if not raised:
        return None
    if not isinstance(original, BaseExceptionGroup):  # noqa: F821
        # A single exception was wrapped for the clauses; at most one of them has raised.
        return raised[0]
    new: list[BaseException] = []
    again: list[BaseException] = []
    for item in raised:
        (again if _same_origin(item, original) else new).append(item)
    unhandled = None
    if again:
        keep: set[int] = set()
        for item in again:
            _leaves(item, keep)
        unhandled = _restrict(original, keep)
    if not new:
        return unhandled
    if unhandled is not None:
        new.append(unhandled)
    if len(new) == 1:
        return new[0]
    return BaseExceptionGroup("", new)  # noqa: F821
