"""Errors of the coverage command: what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable


class CoverageError(Exception):
    """Base of everything that a wrong call of the coverage command raises."""


class UnknownSubject(CoverageError):
    """`--subject` names no compiler that can be tested."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown subject {name!r}; known subjects: {', '.join(known)}")


class UnknownSuite(CoverageError):
    """`--suite` names no suite."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown suite {name!r}; known suites: {', '.join(known)}")


class UnknownRow(CoverageError):
    """`--only` matches no row of the chosen suites."""

    def __init__(self, pattern: str, suites: Iterable[str]) -> None:
        super().__init__(
            f"--only {pattern!r} matches no row of {', '.join(suites)}; list the rows with `thunder coverage --list`"
        )


class ServerFailed(CoverageError):
    """The process that rows are forked from died or could not start."""

    def __init__(self, suite: str, detail: str) -> None:
        super().__init__(
            f"the row server of suite {suite!r} ended: {detail.strip() or 'no message'}; "
            f"run `python -m thunder.coverage.server {suite} eager < /dev/null` to see it fail"
        )
