"""The documentation is true: its Python blocks run, and print what the page says they print.

A page's ```python blocks are one program, run from top to bottom in a process of its own. A ```text block
that follows one is what that block prints. Times differ from run to run and are not compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = (".", "docs", "docs/decisions", "benchmarks")
PAGES = sorted(page for folder in FOLDERS for page in (REPOSITORY / folder).glob("*.md"))
BOUNDARY = "--- end of block {line} ---"


def page_id(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()



@dataclass
class Block:
    """A fenced block: its language, the number of its first line of text, and its text."""

    language: str
    line: int
    text: str


def fenced_blocks(page: str) -> list[Block]:
    """The fenced blocks of a Markdown page, in order."""
    blocks: list[Block] = []
    language: str | None = None
    for number, line in enumerate(page.splitlines(), start=1):
        if not line.startswith("```"):
            if language is not None:
                blocks[-1].text += line + "\n"
        elif language is None:
            language = line.removeprefix("```").strip()
            blocks.append(Block(language, number + 1, ""))
        else:
            language = None
    assert language is None, "a fenced block is not closed"
    return blocks


def program(blocks: list[Block]) -> str:
    """One Python program of the Python blocks; every statement keeps its line number on the page."""
    lines: list[str] = []
    for block in blocks:
        if block.language == "python":
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.text.splitlines()
            lines.append(f"print({BOUNDARY.format(line=block.line)!r}, flush=True)")
    return "\n".join(lines) + "\n"


def expected_outputs(blocks: list[Block]) -> dict[int, str]:
    """What the page says that the Python blocks print, by the line of the block."""
    return {
        before.line: after.text
        for before, after in zip(blocks, blocks[1:])
        if before.language == "python" and after.language == "text"
    }


def without_times(text: str) -> str:
    return re.sub(r"\d+(\.\d+)? (ms|us|s)\b", "... ms", text).strip()


def run_page(path: Path, directory: Path) -> str:
    """What the page's program prints."""
    script = directory / (path.stem.replace("-", "_") + ".py")
    script.write_text(program(fenced_blocks(path.read_text(encoding="utf-8"))), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    finished = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=directory
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def outputs_by_block(printed: str) -> dict[int, str]:
    """What each Python block printed, by the line of the block."""
    pieces = re.split(BOUNDARY.format(line=r"(\d+)") + "\n", printed)
    return {int(line): output for output, line in zip(pieces[::2], pieces[1::2])}


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_page_runs_and_prints_what_it_says(path: Path, tmp_path: Path):
    blocks = fenced_blocks(path.read_text(encoding="utf-8"))
    has_program = any(block.language == "python" for block in blocks)
    printed = outputs_by_block(run_page(path, tmp_path)) if has_program else {}
    for line, expected in expected_outputs(blocks).items():
        assert without_times(printed[line]) == without_times(expected), f"{path.name}:{line}"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_within_the_repository_lead_somewhere(path: Path):
    prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose)
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing


def test_every_decision_is_in_the_index():
    folder = REPOSITORY / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    titles = {path.name: path.read_text(encoding="utf-8").splitlines()[0] for path in folder.glob("0*.md")}
    for name, title in titles.items():
        assert f"]({name}) | {re.sub(r'^# [0-9]+[.] ', '', title)} |" in index


def test_miniature_stays_a_miniature():
    blocks = fenced_blocks((REPOSITORY / "docs" / "how-it-works.md").read_text(encoding="utf-8"))
    lines = [line for block in blocks if block.language == "python" for line in block.text.splitlines()]
    assert len([line for line in lines if line.strip()]) <= 350


def test_blocks_and_their_outputs_are_found():
    page = "intro\n```python\nprint(1)\n```\n\n```text\n1\n```\n```python\nx = 2\n```\n"
    blocks = fenced_blocks(page)
    assert [block.line for block in blocks] == [3, 7, 10]
    assert expected_outputs(blocks) == {3: "1\n"}
    assert program(blocks).splitlines()[2] == "print(1)"
    assert without_times("made by dce, 1.25 ms, 3 ops") == without_times("made by dce, 0.1 ms, 3 ops")
