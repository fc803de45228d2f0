"""The command line: what it writes, and what it says to a wrong option."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thunder.coverage.registry import SUITE_NAMES, check_suite_name
from thunder.coverage.runner import Plan, Run, choose_rows
from thunder.coverage.subjects import SUBJECTS, subject_named
from thunder.errors import OptionError

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thunder.coverage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)


def test_a_run_writes_three_forms(tmp_path):
    finished = run("--suite", "programs", "--only", "00100-00149", "--subject", "eager", "--output", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert "programs" in finished.stdout
    document = json.loads((tmp_path / "coverage.json").read_text())
    assert document["rates"][0]["passed"] == document["rates"][0]["total"] > 40
    assert "torch" in document["versions"]
    assert (tmp_path / "coverage.html").read_text().startswith("<!doctype html>")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_a_run_that_is_stopped_keeps_what_has_ended(tmp_path):
    plan = Plan(["programs"], ["eager"], tmp_path, only=["001*"], phases=["values"], stop_after=600)
    stopped = Run(plan)
    stopped.on_result = lambda result: stopped.stop()
    rows = stopped.execute()
    assert len(rows) == 1 and rows[0].phases["values"].passed > 40
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_a_pattern_without_rows_is_an_error(tmp_path):
    finished = run("--suite", "programs", "--only", "nothing", "--subject", "eager", "--output", str(tmp_path))
    assert finished.returncode == 2
    assert "matches no row of programs" in finished.stderr and "Traceback" not in finished.stderr


def test_unknown_names_list_the_known_ones():
    with pytest.raises(OptionError, match=SUITE_NAMES[0]):
        check_suite_name("transformer")
    with pytest.raises(OptionError, match="dynamo"):
        subject_named("thunderbolt")
    assert set(SUBJECTS) >= {"thunder", "thunder-eager", "dynamo", "eager"}


def test_rows_are_chosen_by_name_or_pattern():
    names = ["llama", "llama4", "bert"]
    assert choose_rows(names, []) == names
    assert choose_rows(names, ["llama"]) == ["llama"]
    assert choose_rows(names, ["llama*", "bert"]) == names
