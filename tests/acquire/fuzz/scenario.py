"""What a scenario is: a small idiom of real programs, with changes that matter to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """An idiom.

    Attributes:
        name: what it is.
        declarations: module-level text.
        body: one of these goes into the subject (sometimes two).
        outside: changes between the calls.
        global_names: names that body and outside assign.
        contexts: contexts for calls that it suggests.
    """

    name: str
    declarations: str
    body: tuple[str, ...]
    outside: tuple[str, ...] = ()
    global_names: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


def numbered(text: str, number: int) -> str:
    """The scenario's text with its number in place of `#`."""
    return text.replace("#", str(number))
