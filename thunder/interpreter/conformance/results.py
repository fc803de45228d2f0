"""Reading what the workers wrote, and comparing native with interpreted runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Run:
    """One run of a module: the outcome and the last words of each test."""

    outcomes: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None  # None: it did not come to its end
    interpreted_frames: int = 0
    native_frames: int = 0


_BAD = ("failed", "error")


def read_run(path: Path) -> Run:
    """Reads a file of JSON lines; a test counts as passed only if nothing in it failed."""
    run = Run()
    if not path.exists():
        return run
    for line in path.read_text().splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a killed worker was writing
        outcome, test = record["outcome"], record["test"]
        if outcome == "finished":
            run.seconds = record["seconds"]
        elif outcome == "frames":
            run.interpreted_frames, run.native_frames = record["interpreted"], record["native"]
        elif not (outcome == "passed" and run.outcomes.get(test) in _BAD):
            run.outcomes[test] = outcome
            if record["detail"]:
                run.details[test] = record["detail"]
    return run


@dataclass
class Comparison:
    """What a module's interpreted run lacks."""

    version: str
    module: str
    native_passed: int
    interpreted_passed: int
    missing: dict[str, str]  # test -> how it ended interpreted
    native_seconds: float | None
    interpreted_seconds: float | None
    interpreted_frames: int
    native_frames: int

    @property
    def share(self) -> float | None:
        total = self.interpreted_frames + self.native_frames
        return self.interpreted_frames / total if total else None


def compare(version: str, module: str, native: Run, interpreted: Run, frames: Run) -> Comparison:
    """Compares the two runs of a module; `frames` is the run that counted frames, if one was made for that."""
    counted = frames if frames.interpreted_frames else interpreted
    passed = {test for test, outcome in native.outcomes.items() if outcome == "passed"}
    missing = {
        test: interpreted.outcomes.get(test, "not run")
        for test in sorted(passed)
        if interpreted.outcomes.get(test) != "passed"
    }
    return Comparison(
        version,
        module,
        len(passed),
        len(passed) - len(missing),
        missing,
        native.seconds,
        interpreted.seconds,
        counted.interpreted_frames,
        counted.native_frames,
    )
