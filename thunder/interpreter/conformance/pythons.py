"""Finds the Pythons of this machine that the interpreter supports and that carry the `test` package."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
_PROBE = "import sys, test.support; print('%d.%d.%d' % sys.version_info[:3])"


class Python(NamedTuple):
    """An installation: its executable and its full version."""

    executable: str
    version: str

    @property
    def counts_frames_slowly(self) -> bool:
        """Up to 3.11 there is no `sys.monitoring`, and counting takes the profiling hook."""
        return self.version.startswith(("3.10.", "3.11."))


def find_pythons(versions: tuple[str, ...] = VERSIONS) -> list[Python]:
    """One Python of each version: from PATH, else from pyenv."""
    found = []
    for version in versions:
        candidates = [shutil.which(f"python{version}") or ""]
        root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
        candidates += sorted(glob.glob(f"{root}/versions/{version}.*/bin/python"), reverse=True)
        for executable in filter(None, candidates):
            python = probe(executable)
            if python is not None and python.version.startswith(version + "."):
                found.append(python)
                break
    return found


def probe(executable: str) -> Python | None:
    """The installation behind an executable, or None if it does not run or lacks the `test` package."""
    try:
        answer = subprocess.run([executable, "-c", _PROBE], capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return Python(executable, answer.stdout.strip()) if answer.returncode == 0 else None


def has_module(python: Python, module: str) -> bool:
    """Whether this version's `test` package has a module or package of that name."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('test.{module}') is None)"
    return subprocess.run([python.executable, "-c", code], capture_output=True).returncode == 0
