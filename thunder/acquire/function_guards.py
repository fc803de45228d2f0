"""Guards on many functions at once.

Input: functions whose code and defaults a program relies on.  Output: a check of all of them that takes one step.

Every read of `function.__code__` or `function.__defaults__` is an audit event, for which all audit hooks are called
(the package filelock, which transformers imports, has one in Python).  What the garbage collector is told of a
function, these among others, in an order that is always the same, is one event for any number of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from gc import get_referents
from operator import is_
from types import FunctionType

_MANY = 4
"""From so many functions on, one step for all is quicker than the reads."""


def unchanged_functions(functions: Sequence[FunctionType]) -> Callable[[], bool] | None:
    """A check that says True only if code and defaults of the functions are those of now; None for a few functions.

    It may say False where something else about a function has changed, its documentation for one.
    """
    if len(functions) < _MANY or not all(type(function) is FunctionType for function in functions):
        return None
    expected = get_referents(*functions)
    if not _all_seen(functions):
        return None

    def unchanged() -> bool:
        found = get_referents(*functions)
        return len(found) == len(expected) and all(map(is_, found, expected))

    return unchanged


def _all_seen(functions: Sequence[FunctionType]) -> bool:
    """Whether the collector is told of code and defaults, which is no rule of the language."""
    for function in functions:
        seen = set(map(id, get_referents(function)))
        for part in (function.__code__, function.__defaults__, function.__kwdefaults__):
            if part is not None and id(part) not in seen:
                return False
    return True
