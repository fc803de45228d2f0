"""The comparison of CPython's tests, native and interpreted: what counts as passed, what a killed run leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from thunder.interpreter.conformance.__main__ import main
from thunder.interpreter.conformance.results import Comparison, compare, read_run
from thunder.interpreter.conformance.tables import missing_tests, modules_table, totals_table


def write_run(path: Path, outcomes: list[tuple[str, str]], finished: bool = True) -> Path:
    records = [{"test": test, "outcome": outcome, "seconds": 0.0, "detail": ""} for test, outcome in outcomes]
    if finished:
        records.append({"test": "", "outcome": "finished", "seconds": 1.5, "detail": ""})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def comparison(tmp_path: Path, interpreted_outcomes: list[tuple[str, str]], finished: bool = True) -> Comparison:
    names = ["test.test_x.A.one", "test.test_x.A.two", "test.test_x.A.three"]
    native = write_run(tmp_path / "native", [(name, "passed") for name in names[:2]] + [(names[2], "skipped")])
    interpreted = write_run(tmp_path / "interpreted", interpreted_outcomes, finished)
    return compare("3.11.7", "test_x", read_run(native), read_run(interpreted), read_run(tmp_path / "none"))


def test_only_tests_that_pass_natively_count(tmp_path: Path) -> None:
    result = comparison(
        tmp_path, [("test.test_x.A.one", "passed"), ("test.test_x.A.two", "failed"), ("test.test_x.A.three", "failed")]
    )
    assert (result.native_passed, result.interpreted_passed) == (2, 1)
    assert result.missing == {"test.test_x.A.two": "failed"}


def test_killed_run(tmp_path: Path) -> None:
    result = comparison(tmp_path, [("test.test_x.A.one", "started")], finished=False)
    assert result.missing == {"test.test_x.A.one": "started", "test.test_x.A.two": "not run"}
    assert result.interpreted_seconds is None
    assert modules_table([result]).splitlines()[-1] == "| `test_x` | 0/2, cut off |"


def test_a_failed_subtest_is_not_forgotten(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [("t", "started"), ("t", "failed"), ("t", "passed")])
    assert read_run(path).outcomes == {"t": "failed"}


def test_tables(tmp_path: Path) -> None:
    result = comparison(tmp_path, [("test.test_x.A.one", "passed"), ("test.test_x.A.two", "failed")])
    result.interpreted_frames, result.native_frames = 999, 1
    assert totals_table([result]).splitlines()[-1] == "| 3.11.7 | 1 of 1 | 2 | 1 | 50.00% | 99.90% (1 modules) |"
    assert modules_table([result]).splitlines()[-1] == "| `test_x` | 1/2 |"
    assert missing_tests([result]).splitlines()[-1] == "| `test_x` `A.two` | 3.11.7 |"


def test_a_module_natively_and_interpreted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("test.test_unpack", reason="this Python comes without its test package")
    options = ["--python", sys.executable, "--module", "test_unpack", "--results", str(tmp_path)]
    assert main(options) == 0
    (summary,) = json.loads((tmp_path / "summary.json").read_text())
    assert summary["native_passed"] == summary["interpreted_passed"] > 0 and not summary["missing"]
    assert "100.00%" in capsys.readouterr().out
