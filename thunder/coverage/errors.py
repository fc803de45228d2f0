"""Errors of the coverage command; wrong options are `thunder.errors.OptionError`."""

from __future__ import annotations

from thunder.errors import ThunderError


class ServerFailed(ThunderError):
    """The process that rows are forked from died or could not start."""

    def __init__(self, suite: str, detail: str) -> None:
        super().__init__(
            f"the row server of suite {suite!r} ended: {detail.strip() or 'no message'}",
            remedy=f"see it fail with `python -m thunder.coverage.server {suite} eager < /dev/null`",
        )


class RanInPlainPython(ThunderError):
    """The subject agrees with eager because it ran eager: that is not counted as passed."""

    def __init__(self, calls: int, reason: str) -> None:
        super().__init__(
            f"{calls} of the calls ran in plain Python: {reason or 'no reason was given'}",
            remedy="see `thunder.compile_stats(compiled).plain_calls` and the warning of the call",
        )
