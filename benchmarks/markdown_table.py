"""Prints a results file of `thunder bench` as a Markdown table.

    python benchmarks/markdown_table.py benchmarks/results/cpu.json

Input: the JSON file.  Output: for every workload a line for the first call and one for later calls, a column a
contender; later calls with their ratio to eager's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from thunder.cli.texts import format_ratio, format_seconds
from thunder.cli.workloads import FIGURES

Entry = dict[str, Any]


def markdown_table(written: dict[str, Any]) -> str:
    """The table, with the machine and the versions beneath."""
    entries: dict[tuple[str, str], Entry] = {
        (entry["workload"], entry["contender"]): entry for entry in written["measurements"]
    }
    contenders = list(dict.fromkeys(contender for _, contender in entries))
    lines = [f"| work | {' | '.join(contenders)} |", "|---" * (1 + len(contenders)) + "|"]
    for workload in FIGURES:
        block = [entries.get((workload.name, contender), {}) for contender in contenders]
        if any(block):
            lines.append(f"| {workload.title}: first call | {' | '.join(map(first_call, block))} |")
            lines.append(f"| per call | {' | '.join(per_call(entry, block[0]) for entry in block)} |")
    versions = ", ".join(f"{package} {version}" for package, version in written["versions"].items())
    return "\n".join([*lines, "", f"Taken {written['taken'][:10]} on {written['machine']}; {versions}.", ""])


def first_call(entry: Entry) -> str:
    if entry.get("failure"):
        return "failed"
    return format_seconds(entry.get("first_call"))


def per_call(entry: Entry, eager: Entry) -> str:
    seconds, of_eager = median_of(entry), median_of(eager)
    text = format_seconds(seconds)
    return text if entry is eager or seconds is None else f"{text} ({format_ratio(seconds, of_eager)})"


def median_of(entry: Entry) -> float | None:
    call = entry.get("call")
    return call["median"] if call else None


if __name__ == "__main__":
    print(markdown_table(json.loads(Path(sys.argv[1]).read_text())))
