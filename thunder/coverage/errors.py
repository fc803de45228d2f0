"""The error of the coverage command that is its own; wrong options are `thunder.errors.OptionError`."""

from __future__ import annotations

from thunder.errors import ThunderError


class ServerFailed(ThunderError):
    """The process that rows are forked from died or could not start."""

    def __init__(self, suite: str, detail: str) -> None:
        super().__init__(
            f"the row server of suite {suite!r} ended: {detail.strip() or 'no message'}",
            remedy=f"see it fail with `python -m thunder.coverage.server {suite} eager < /dev/null`",
        )
