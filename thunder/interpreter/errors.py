"""Errors of the interpreter itself, as opposed to exceptions that the interpreted program raises."""

from __future__ import annotations


class InterpreterError(RuntimeError):
    """The interpreter cannot go on: this is a limit or a defect of the interpreter, not of the user's program."""


class UnsupportedInstructionError(InterpreterError):
    """A code object holds an instruction for which no handler is registered."""

    def __init__(self, instruction: str, filename: str, line: int | None) -> None:
        super().__init__(
            f"no handler for the bytecode instruction {instruction} (needed by {filename}:{line}); "
            "add one in thunder/interpreter/handlers/, see docs/interpreter.md"
        )


class UnsupportedPythonError(InterpreterError):
    """The running Python has no bytecode table."""

    def __init__(self, version: tuple[int, int]) -> None:
        super().__init__(
            f"no bytecode table for Python {version[0]}.{version[1]}; the interpreter knows 3.10 to 3.13. "
            "Add thunder/interpreter/versions/python"
            f"{version[0]}{version[1]}.py, see docs/interpreter.md"
        )
