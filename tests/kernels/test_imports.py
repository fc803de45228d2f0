"""The library's kernels are imported when a program needs them, and not before."""

from __future__ import annotations

import subprocess
import sys


def test_programs_on_the_cpu_do_not_import_the_kernels():
    source = (
        "import sys, torch, thunder\n"
        "compiled = thunder.jit(torch.nn.Linear(3, 3), executors=['aten'])\n"
        "compiled(torch.ones(2, 3))\n"
        "sys.exit(any(name in sys.modules for name in ('thunder.kernels.gemv', 'thunder.kernels.passes')))"
    )
    finished = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr or "the kernels were imported"
