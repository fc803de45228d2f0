"""Binding the arguments of a call to the slots of a frame.

`bind(program, function, arguments, keywords)` returns the frame's stack with the arguments in their slots, or None
when the call does not fit the signature; calling the function natively then raises exactly the error that CPython
raises, before any of its body runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

from .frame import NULL
from .program import CO_VARARGS, CO_VARKEYWORDS, Program


def bind(
    program: Program,
    function: FunctionType,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any] | None,
) -> list[Any] | None:
    """The slots for a call, or None when the arguments do not fit."""
    positional = program.positional
    keyword_only = program.keyword_only
    flags = program.flags
    count = len(arguments)
    variadic: tuple[Any, ...] = ()
    if count > positional:
        if not flags & CO_VARARGS:
            return None
        slots = list(arguments[:positional])
        variadic = tuple(arguments[positional:])
    else:
        slots = list(arguments)
        slots += [NULL] * (positional - count)
    slots += [NULL] * keyword_only
    if flags & CO_VARARGS:
        slots.append(variadic)
    remaining: dict[str, Any] | None = None
    if flags & CO_VARKEYWORDS:
        remaining = {}
        slots.append(remaining)
    if keywords:
        slot_of = program.keyword_index
        for name, value in keywords.items():
            slot = slot_of.get(name)
            if slot is None:
                if remaining is None or not isinstance(name, str):
                    return None
                remaining[name] = value
            elif slots[slot] is not NULL:
                return None
            else:
                slots[slot] = value
    if count < positional:
        defaults = function.__defaults__ or ()
        first_default = positional - len(defaults)
        for slot in range(count, positional):
            if slots[slot] is NULL:
                if slot < first_default:
                    return None
                slots[slot] = defaults[slot - first_default]
    if keyword_only:
        keyword_defaults = function.__kwdefaults__ or {}
        names = program.local_names
        for slot in range(positional, positional + keyword_only):
            if slots[slot] is NULL:
                if names[slot] not in keyword_defaults:
                    return None
                slots[slot] = keyword_defaults[names[slot]]
    slots += program.tail
    return slots
