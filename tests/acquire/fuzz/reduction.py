"""Makes a failing program smaller: leaves out parts as long as it still fails in the same way.

Parts are left out first, then the statements that the text consists of, line block by line block.
"""

from __future__ import annotations

import ast
import signal
from collections.abc import Callable
from dataclasses import replace

from tests.acquire.fuzz.program import GeneratedProgram

Fails = Callable[[str], bool]
SECONDS = 3


class TooLong(BaseException):
    """A candidate runs for ever; no `except Exception` of a program may catch this."""


def sensible(fails: Fails) -> Fails:
    """The same question, answered with False when a candidate takes too long or cannot be run at all.

    For the main thread only.
    """

    def expire(number: int, frame: object) -> None:
        raise TooLong

    def limited(source: str) -> bool:
        before = signal.signal(signal.SIGALRM, expire)
        signal.alarm(SECONDS)
        try:
            return fails(source)
        except (TooLong, Exception):  # what is left out may have been needed to make the worlds: any error
            return False
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    return limited


def reduce_program(program: GeneratedProgram, fails: Fails) -> str:
    """The text of a small program for which `fails` still holds."""

    fails = sensible(fails)

    def still(candidate: GeneratedProgram) -> bool:
        return fails(candidate.source())

    program = _reduce_rounds(program, still)
    for name in ("body", "declarations", "epilogue"):
        parts = getattr(program, name)
        for index in reversed(range(len(parts))):
            parts = getattr(program, name)
            candidate = replace(program, **{name: parts[:index] + parts[index + 1 :]})
            if still(candidate):
                program = candidate
    program = _reduce_rounds(program, still)
    return reduce_text(program.source(), fails)


def _reduce_rounds(program: GeneratedProgram, still: Callable[[GeneratedProgram], bool]) -> GeneratedProgram:
    for index in reversed(range(len(program.rounds))):
        candidate = replace(program, rounds=program.rounds[:index] + program.rounds[index + 1 :])
        if candidate.rounds and still(candidate):
            program = candidate
    for index in range(len(program.rounds)):
        for changes in ({"changes": ()}, {"context": None}, {"after": ()}):
            rounds = list(program.rounds)
            rounds[index] = replace(rounds[index], **changes)
            candidate = replace(program, rounds=tuple(rounds))
            if candidate != program and still(candidate):
                program = candidate
    return program


def reduce_text(source: str, fails: Fails) -> str:
    """Deletes statements of the text, at any depth, while it still fails."""
    changed = True
    while changed:
        changed = False
        for number in reversed(range(_count_statements(source))):
            candidate = _without_statement(source, number)
            if candidate is not None and fails(candidate):
                source, changed = candidate, True
    return source


def _blocks(tree: ast.AST) -> list[list[ast.stmt]]:
    return [
        block
        for node in ast.walk(tree)
        for name in ("body", "orelse", "finalbody")
        if isinstance(block := getattr(node, name, None), list) and block and isinstance(block[0], ast.stmt)
    ]


def _count_statements(source: str) -> int:
    return sum(map(len, _blocks(ast.parse(source))))


def _without_statement(source: str, number: int) -> str | None:
    """The text without its statement of that number; what is nested in it moves up where that is possible."""
    tree = ast.parse(source)
    for block in _blocks(tree):
        if number < len(block):
            removed = block[number]
            if isinstance(removed, (ast.FunctionDef, ast.ClassDef)) and removed.name.startswith(("round_", "subject")):
                return None
            nested = removed.body if isinstance(removed, (ast.With, ast.Try, ast.If, ast.For, ast.While)) else []
            block[number : number + 1] = nested
            if not block:
                block.append(ast.Pass())
            try:
                return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
            except (ValueError, AttributeError):
                return None
        number -= len(block)
    return None
