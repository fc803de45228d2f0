"""A generated program: text that declares state, a subject that reads and changes it, and rounds that call it.

A program is kept in parts so that a failing one can be made smaller by leaving parts out.  `source` joins them to
one module: everything that a run does, mutations and calls included, is in that text, so a saved text is a
complete reproducer.

The text defines `subject` (what is compiled) and functions `round_0`, `round_1`, ...; each changes some state and
calls what it is given in place of the subject.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

HEADER = """\
import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import itertools
import math
import operator
import os
import random
import time
import types
import typing
import weakref

import torch
import torch.nn.functional as F
from torch import nn


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def by_text(value):
    return str(value) if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__


def backward(result):
    for value in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(value, torch.Tensor) and value.requires_grad and value.dtype.is_floating_point:
            value.float().sum().backward()
"""


@dataclass(frozen=True)
class Round:
    """One call: what is changed before it, the arguments, the context, and what is done with the result."""

    changes: tuple[str, ...] = ()
    arguments: str = ""
    context: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class GeneratedProgram:
    """The parts of a program.

    Attributes:
        seed: what it was generated from.
        declarations: blocks of module-level statements; later ones may use earlier ones.
        frame: the subject's definition, with the marker `BODY` on a line of its own, indented as its statements are.
        body: statements of the subject.
        returned: the statement with which the subject ends.
        epilogue: module-level statements after the subject's definition.
        global_names: names that the subject and the rounds may assign.
        rounds: the calls.
    """

    seed: int
    declarations: tuple[str, ...]
    frame: str
    body: tuple[str, ...]
    returned: str
    epilogue: tuple[str, ...]
    global_names: tuple[str, ...]
    rounds: tuple[Round, ...]

    def source(self) -> str:
        """The whole program as one module."""
        parts = [f'"""Generated from seed {self.seed}."""', HEADER, *self.declarations, self._subject()]
        parts += self.epilogue
        parts += [self._round(index, made) for index, made in enumerate(self.rounds)]
        return "\n".join(part.rstrip("\n") + "\n" for part in parts)

    def _subject(self) -> str:
        lines = []
        for line in self.frame.splitlines():
            if line.strip() != "BODY":
                lines.append(line)
                continue
            indentation = line[: len(line) - len(line.lstrip())]
            statements = [*self._global_statement([*self.body, self.returned]), "log = []", *self.body, self.returned]
            lines.append(textwrap.indent("\n".join(statements), indentation))
        return "\n".join(lines)

    def _round(self, index: int, made: Round) -> str:
        lines = [*self._global_statement([*made.changes, *made.after]), *made.changes]
        call = f"result = call({made.arguments})"
        lines += [f"with {made.context}:", f"    {call}"] if made.context else [call]
        lines += [*made.after, "return result"]
        return f"def round_{index}(call):\n" + textwrap.indent("\n".join(lines), "    ")

    def _global_statement(self, statements: list[str]) -> list[str]:
        """`global` for the names that are assigned: naming the others would be harmless but long."""
        text = "\n".join(statements)
        names = [name for name in self.global_names if f"{name} " in text or f"{name}," in text]
        return [f"global {', '.join(names)}"] if names else []

    def without(self, **changes: object) -> GeneratedProgram:
        """A copy with other parts."""
        return replace(self, **changes)  # type: ignore[arg-type]
