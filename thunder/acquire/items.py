"""Look-asides of builtins whose C code asks each item for something: `bool`, `==` or `iter` is called for it instead.

These calls the tracker follows, so that what they read is guarded.  Output: `item_lookasides()`, by builtin.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from thunder.interpreter.lookasides import callback_lookasides


def item_lookasides() -> dict[Any, Callable[..., Any]]:
    """`any`, `all`, `filter(None, ...)`, `filterfalse(None, ...)`, `compress`, `from_iterable`, `countOf`, ..."""
    return {
        any: _of_truths(any),
        all: _of_truths(all),
        filter: _filtering(filter),
        itertools.filterfalse: _filtering(itertools.filterfalse),
        itertools.compress: _compress,
        itertools.chain.from_iterable: _chained,
        ascii: _ascii,
        operator.countOf: _count,
        operator.indexOf: _index,
    }


def _of_truths(target: Any) -> Callable[..., Any]:
    def replacement(interp: Any, *arguments: Any) -> Any:
        return target(*(interp.call(map, bool, argument) for argument in arguments))

    return replacement


def _filtering(target: Any) -> Callable[..., Any]:
    otherwise = callback_lookasides()[target]

    def replacement(interp: Any, *arguments: Any, **keywords: Any) -> Any:
        if arguments and arguments[0] is None:
            arguments = (bool, *arguments[1:])
        return otherwise(interp, *arguments, **keywords)

    return replacement


def _compress(interp: Any, data: Any, selectors: Any) -> Any:
    return itertools.compress(interp.call(iter, data), interp.call(map, bool, selectors))


def _ascii(interp: Any, *arguments: Any) -> str:
    if len(arguments) != 1:
        return ascii(*arguments)  # raises
    text: str = interp.call(repr, *arguments)
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode("ascii")


def _chained(interp: Any, iterable: Any) -> Any:
    return itertools.chain.from_iterable(interp.call(map, iter, iterable))


def _matches(interp: Any, container: Any, item: Any) -> Iterator[bool]:
    for value in interp.call(iter, container):
        yield value is item or interp.call(bool, interp.call(operator.eq, value, item))


def _count(interp: Any, container: Any, item: Any) -> int:
    return sum(_matches(interp, container, item))


def _index(interp: Any, container: Any, item: Any) -> int:
    for index, found in enumerate(_matches(interp, container, item)):
        if found:
            return index
    raise ValueError("sequence.index(x): x not in sequence")
