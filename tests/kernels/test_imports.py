"""Triton is imported when a program needs kernels, and not before."""

from __future__ import annotations

import subprocess
import sys


def test_programs_on_the_cpu_do_not_import_triton():
    source = (
        "import sys, torch, thunder\n"
        "compiled = thunder.jit(torch.nn.Linear(3, 3), executors=['aten'])\n"
        "compiled(torch.ones(2, 3))\n"
        "sys.exit('triton' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr or "Triton was imported"
