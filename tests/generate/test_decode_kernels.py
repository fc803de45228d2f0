"""The budget of docs/generate.md: how many kernels a decoding step launches."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS_OF_A_LAYER = 6
OTHER_KERNELS = 12


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_step_launches_few_kernels():
    script = Path(__file__).with_name("decode_kernels.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["layer"].values()) <= KERNELS_OF_A_LAYER, found["layer"]
    assert sum(found["rest"].values()) <= OTHER_KERNELS, found["rest"]
    assert not {"copy_", "index_copy", "clone", "to"} & set(found["layer"]), "the cache is copied"
