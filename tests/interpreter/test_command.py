"""`python -m thunder.interpreter` behaves as `python` does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
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

FINALIZER = """
class C:
    def __del__(self): 1 / 0
C()
"""

MISSPELT = """
def f():
    value = 1
    return valeu
f()
"""

TRACED = """
import sys
def trace(frame, event, argument):
    print(event, frame.f_code.co_name, frame.f_lineno, argument if event == 'return' else '')
    return trace
def numbers():
    yield 1
    yield 2
def program(count):
    total = 0
    for number in numbers():
        total += number
    while True:
        break
    try:
        1 / 0
    except ZeroDivisionError:
        pass
    return total
sys.settrace(trace)
program(2)
sys.settrace(None)
"""

RECURSIVE = """
import sys
deepest = 0
def descend(depth):
    global deepest
    deepest = depth
    return descend(depth + 1) + 1
def exponential():
    global deepest
    deepest += 1
    try: exponential()
    except RecursionError: exponential()
for limit in (300, 2000):
    sys.setrecursionlimit(limit)
    try: descend(0)
    except RecursionError as error: print(deepest, error, sys.getrecursionlimit())
deepest = 0
sys.setrecursionlimit(12)
try: exponential()
except RecursionError: pass
print(deepest)
sys.setrecursionlimit(500)
descend(0)
"""

NAMES_OF_MAIN = """
print(sorted(name for name in globals() if name.startswith('__')))
print(__annotations__, __spec__, getattr(__loader__, '__name__', type(__loader__).__name__))
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


def without_addresses(text: str) -> str:
    return re.sub("0x[0-9a-f]+", "0x", text)


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
    "options": ["-W", "error", "-OBu", "-c", "import sys; print(sys.orig_argv[1:], sys.flags.optimize); assert 0"],
    "version": ["-V"],
    "attached": ["-mcalendar", "2024", "3"],
    "directory": ["package"],
    "archive": ["package.pyz"],
    "no such file": ["missing.py"],
    "no such module": ["-m", "missing"],
    "exit with a list": ["-c", "import sys; sys.exit([1, 2])"],
    "interrupted": ["-c", "import atexit; atexit.register(print, 'at exit'); raise KeyboardInterrupt"],
    "finalizer that fails": ["-c", FINALIZER],
    "arguments": ["-c", "import sys; print(sys.orig_argv[1:], sys.argv)", "x", "-m", "y"],
    "own modules": ["-c", "import sys; print([name in sys.modules for name in ('dataclasses', 'ast', 'runpy')])"],
    "misspelt name": ["misspelt.py"],
    "traced": ["traced.py"],
    "recursive": ["recursive.py"],
    "names of main in a file": ["names.py"],
    "names of main in code": ["-c", NAMES_OF_MAIN],
    "missing name in a module": ["-c", "from os import missing"],
}
FAILING = {
    "missing argument": (["-m"], "Argument expected for the -m option"),
    "unknown option": (["-Z"], "Unknown option: -Z"),
}


@pytest.mark.parametrize("name", ROWS)
def test_same_as_python(name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "misspelt.py").write_text(MISSPELT)
    (tmp_path / "traced.py").write_text(TRACED)
    (tmp_path / "recursive.py").write_text(RECURSIVE)
    (tmp_path / "names.py").write_text(NAMES_OF_MAIN)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(
        "import sys\nif __package__: from . import other\nelse: import other\n"
        "print(__name__, __package__, sys.argv[1:], other.x)\n"
    )
    (tmp_path / "package" / "other.py").write_text("x = [i for i in range(3)]\n")
    with zipfile.ZipFile(tmp_path / "package.pyz", "w") as archive:
        archive.writestr("__main__.py", "print(__name__, __file__)")
    native = run(ROWS[name], False, tmp_path)
    interpreted = run(ROWS[name], True, tmp_path)
    assert interpreted.stdout == native.stdout
    assert without_addresses(interpreted.stderr) == without_addresses(native.stderr)
    assert interpreted.returncode == native.returncode


@pytest.mark.parametrize("name", FAILING)
def test_wrong_command_line(name: str, tmp_path: Path) -> None:
    arguments, first_line = FAILING[name]
    native = run(arguments, False, tmp_path)
    interpreted = run(arguments, True, tmp_path)
    assert interpreted.returncode == native.returncode == 2
    assert interpreted.stderr.splitlines()[0] == native.stderr.splitlines()[0] == first_line


def test_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules)"
    assert run(["-c", code], True, tmp_path).stdout == "False\n"
