"""What a suite is: a named list of rows, and a way to run one of them under a subject.

Input: nothing but the installed packages. Output: rows whose names do not change between runs on the same
versions, so that a run can be resumed and compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from thunder.coverage.recorder import Recorder
from thunder.coverage.subjects import Subject


class Suite(ABC):
    """A family of rows that are built and judged in the same way."""

    name: str
    packages: tuple[str, ...] = ("torch",)
    """Distributions whose versions belong to the result."""
    required_modules: tuple[str, ...] = ()
    """Modules without which the suite has no rows."""
    device: str = "cpu"
    """Where models, inputs and compiled functions are; set once, before rows are run."""
    row_timeout: float = 120.0
    """Seconds that a row may take; a subject that needs longer has failed."""
    case_timeout: float | None = None
    """Seconds for one case, for suites whose rows have many; after a timeout the row goes on with the next case."""

    rows_of_a_process: int = 1
    """Rows that one process may run, for suites whose rows are so small that making a process costs as much."""

    @abstractmethod
    def row_names(self) -> Sequence[str]:
        """All rows, in a fixed order."""

    def warm(self) -> None:  # noqa: B027 (most suites need nothing)
        """Import what every row needs; runs once in the process that rows are forked from."""

    @abstractmethod
    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        """Run the cases of one row."""
