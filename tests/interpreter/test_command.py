"""`python -m thunder.interpreter` behaves as `python` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
def fail(): raise ValueError('no')
def report(*arguments): print(*arguments)
print(__name__, sys.argv, __file__.endswith('script.py'), sys.path[0] == __import__('os').path.dirname(__file__))
if 'exit' in sys.argv: sys.exit(7)
if 'text' in sys.argv: sys.exit('message')
if 'fail' in sys.argv:
    try: fail()
    except ValueError as error: raise KeyError('again') from error
import atexit, threading, weakref
atexit.register(report, 'at exit')
thread = threading.Thread(target=report, args=('thread',)); thread.start(); thread.join()
class C: pass
c = C(); weakref.finalize(c, report, 'finalized'); del c
"""


def run(arguments: list[str], interpreted: bool, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-m", "thunder.interpreter"] if interpreted else []), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        input="print('from stdin')\n",
    )


ROWS = {
    "file": ["script.py", "a", "b"],
    "exit": ["script.py", "exit"],
    "text": ["script.py", "text"],
    "uncaught": ["script.py", "fail"],
    "code": ["-c", "import sys; print(sys.argv, __name__); 1 / 0", "x"],
    "module": ["-m", "package", "x"],
    "module of the standard library": ["-m", "calendar", "2024", "2"],
    "syntax error": ["-c", "print("],
    "stdin": ["-"],
}


@pytest.mark.parametrize("name", ROWS)
def test_same_as_python(name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(
        "import sys; from . import other; print(__name__, __package__, sys.argv[1:], other.x)\n"
    )
    (tmp_path / "package" / "other.py").write_text("x = [i for i in range(3)]\n")
    native = run(ROWS[name], False, tmp_path)
    interpreted = run(ROWS[name], True, tmp_path)
    assert interpreted.stdout == native.stdout
    assert interpreted.stderr == native.stderr
    assert interpreted.returncode == native.returncode


def test_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules)"
    assert run(["-c", code], True, tmp_path).stdout == "False\n"
