"""Programs give the same result natively and interpreted, with every flavour of interpreter and every Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from thunder.interpreter.conformance.pythons import find_pythons

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from programs import PROGRAMS  # noqa: E402 - shared with selftest.py, which runs without a package
from selftest import FLAVOURS, run_interpreted, run_natively  # noqa: E402

ROWS = [(name, source) for name, version, source in PROGRAMS if sys.version_info >= version]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(("name", "source"), ROWS, ids=[name for name, _ in ROWS])
def test_program(name: str, source: str, flavour: str) -> None:
    native = run_natively(source, name)
    interpreted = run_interpreted(source, name, FLAVOURS[flavour]())
    assert repr(interpreted) == repr(native)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python(version: str) -> None:
    pythons = find_pythons((version,))
    if not pythons:
        pytest.skip(f"no Python {version} with a test package on this machine")
    answer = subprocess.run(
        [pythons[0].executable, str(HERE / "selftest.py")], capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]
