"""Small programs written out by hand, run in plain Python and compiled, as random ones are (see `fuzz/worlds.py`).

A case declares state and a subject, and lists changes; the subject is called once for each, the change made before.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from tests.acquire.fuzz.program import HEADER
from tests.acquire.fuzz.runner import check
from tests.acquire.fuzz.worlds import SAME, Outcome


@dataclass(frozen=True)
class Case:
    """A program.

    Attributes:
        name: what it is about.
        text: module-level statements that define `subject`.
        changes: made before each call, in order; "" for none.
        arguments: of every call, or one text for each call.
        context: a context manager for each call, where one is wanted.
    """

    name: str
    text: str
    changes: tuple[str, ...] = ("", "")
    arguments: str | tuple[str, ...] = "torch.ones(4)"
    contexts: tuple[str, ...] = ()

    def source(self) -> str:
        parts = [HEADER, textwrap.dedent(self.text)]
        for index, change in enumerate(self.changes):
            arguments = self.arguments if isinstance(self.arguments, str) else self.arguments[index]
            context = self.contexts[index] if self.contexts else "contextlib.nullcontext()"
            names = sorted({line.split(" = ")[0] for line in change.splitlines() if line.split(" = ")[0].isidentifier()})
            lines = [f"global {', '.join(names)}"] if names else []
            lines += [change] if change else []
            lines += [f"with {context}:", f"    return call({arguments})"]
            parts.append(f"def round_{index}(call):\n" + textwrap.indent("\n".join(lines), "    ") + "\n")
        return "\n".join(parts)


def run(case: Case) -> Outcome:
    """Runs a case; what differs from plain Python fails."""
    outcome = check(case.source())
    assert outcome.status == SAME, f"call {outcome.round}: {outcome.explanation}"
    return outcome
