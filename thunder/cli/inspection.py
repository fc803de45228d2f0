"""The programs that thunder made of a model, as text under headings.

Input: a compiled module or function that has been called.  Output: `Listing`s in the order of the stages:
guards, the acquired program, every later trace, and the backward traces when there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.syntax import Syntax

import thunder


@dataclass(frozen=True)
class Listing:
    """One program: its heading and its Python source."""

    title: str
    source: str


def listings(compiled: Any) -> list[Listing]:
    """Every stage of the last call's program."""
    found = [Listing("Guards", str(thunder.last_prologue(compiled)))]
    found += stages("Forward", thunder.last_traces(compiled))
    found += stages("Backward", thunder.last_backward_traces(compiled) or [])
    return found


def stages(direction: str, traces: list[Any]) -> Iterator[Listing]:
    """One listing a trace, headed by the pass that made it; a pass that changed nothing is left out."""
    source = ""
    for number, trace in enumerate(traces):
        previous, source = source, str(trace)
        if source != previous:
            made_by = trace.history[-1] if trace.history else "acquired"
            yield Listing(f"{direction}, stage {number}: {made_by}", source)


def show_listings(console: Console, programs: list[Listing], longest: int | None = None) -> None:
    """Prints programs with a rule above each; of a program longer than `longest` lines, its beginning."""
    for program in programs:
        lines = program.source.splitlines()
        console.rule(program.title, align="left")
        console.print(Syntax("\n".join(lines[:longest]), "python", background_color="default", word_wrap=True))
        if longest is not None and len(lines) > longest:
            console.print(f"    ... and {len(lines) - longest} more lines", style="dim")
