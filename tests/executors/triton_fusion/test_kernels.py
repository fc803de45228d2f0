"""Generated Triton kernels: values in Triton's interpreter, compilation for several GPUs, caching.

The interpreter has to be chosen before Triton is imported, so programs run in a process of their own
(`interpreted.py`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("triton")

sys.path.insert(0, str(Path(__file__).parent))
from fused_programs import programs

from thunder.kernels import binaries as cache
from thunder.kernels.binaries import KernelSource

HERE = Path(__file__).parent
RANDOM_PROGRAMS = 40


def interpreted(directory: Path, *arguments: str) -> dict[str, Any]:
    """What `interpreted.py` finds."""
    path = directory / "results.json"
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "THUNDER_CACHE_DIR": str(directory),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parents[2]),
    }
    subprocess.run(
        [sys.executable, str(HERE / "interpreted.py"), *arguments, str(path)],
        env=environment, check=True, timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def typical(tmp_path_factory):
    return interpreted(tmp_path_factory.mktemp("typical"), "typical")


@pytest.fixture(scope="module")
def random_programs(tmp_path_factory):
    return interpreted(tmp_path_factory.mktemp("random"), "random", "0", str(RANDOM_PROGRAMS))


def check(found: dict[str, Any]) -> None:
    """As near to float64 as eager PyTorch is, up to the interpreter's truncation to bfloat16."""
    assert "failure" not in found, found["failure"]
    assert not found["notes"]
    assert len(found["errors"]) == len(found["eager_errors"])
    for error, eager in zip(found["errors"], found["eager_errors"]):
        assert error <= max(3 * eager, 6e-3 if max(found["eager_errors"]) > 1e-4 else 2e-6)
    assert all(found["same_types"])


@pytest.mark.parametrize("name", programs())
def test_values_and_gradients(typical, name):
    check(typical[name])
    assert typical[name]["kernels"]


@pytest.mark.parametrize("seed", range(RANDOM_PROGRAMS))
def test_random_programs(random_programs, seed):
    check(random_programs[str(seed)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("transformers")
    return interpreted(tmp_path_factory.mktemp("models"), "models")


@pytest.mark.parametrize("name", ["qwen2", "bert"])
def test_models(models, name):
    assert not models[name]["notes"]
    assert len(models[name]["kernels"]) >= 10
    assert max(models[name]["errors"]) < 1e-4


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("rms_norm", 1, 2),
        ("layer_norm", 1, 2),
        ("softmax with mask", 1, 1),
        ("swiglu", 1, 1),
        ("rotary", 2, 2),
        ("bias and gelu", 1, 1),
    ],
)
def test_typical_regions_are_one_kernel_each(typical, name, forward, backward):
    assert len(typical[name]["kernels"]) == forward + backward


def test_softmax_of_long_rows_reads_them_twice(typical):
    source = typical["softmax of long rows"]["sources"][0]["text"]
    assert source.count("for start in range") == 2


def sources(found: dict[str, Any]) -> list[KernelSource]:
    distinct = {}
    for row in found.values():
        for fields in row["sources"]:
            fields = {**fields, "signature": tuple(map(tuple, fields["signature"]))}
            source = KernelSource(**fields)
            distinct[source.key] = source
    return list(distinct.values())


class Resources(NamedTuple):
    """What a kernel's threads need; `stack` is where registers that do not suffice go."""

    registers: int
    stack: int


def resources(code: bytes, path: Path) -> Resources:
    """Read from machine code by NVIDIA's tool, which comes with Triton."""
    path.write_bytes(code)
    triton = pytest.importorskip("triton")
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return Resources(int(found[1]), int(found[2]))


def compile_all(chosen: list[KernelSource], architecture: int, directory: Path) -> dict[str, Resources]:
    """What each kernel needs on an architecture."""
    return {
        source.name: resources(cache.compile_for(source, architecture).asm["cubin"], directory / "kernel.cubin")
        for source in chosen
    }


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter was chosen for this process")
@pytest.mark.parametrize("name", ["rms_norm", "rotary", "softmax of long rows", "layer_norm", "embedding"])
def test_kernels_compile(typical, name, tmp_path, monkeypatch):
    monkeypatch.setenv("THUNDER_CACHE_DIR", str(tmp_path))
    for found in compile_all(sources({name: typical[name]}), 90, tmp_path).values():
        assert found.stack == 0
        assert found.registers <= 128


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter was chosen for this process")
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_every_kernel_compiles(typical, random_programs, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("THUNDER_CACHE_DIR", str(tmp_path))
    found = compile_all(sources({**typical, **random_programs}), architecture, tmp_path)
    print("\n".join(f"{name}: {kernel}" for name, kernel in sorted(found.items())))
    # NVIDIA's sine and cosine keep a table on the stack for large arguments.
    assert not {name: kernel for name, kernel in found.items() if kernel.stack and not re.search("sin|cos", name)}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter was chosen for this process")
def test_binaries_are_kept_and_damaged_ones_made_again(typical, tmp_path, monkeypatch):
    monkeypatch.setenv("THUNDER_CACHE_DIR", str(tmp_path))
    source = sources({"swiglu": typical["swiglu"]})[0]
    renamed = replace(source, text=source.text + "# a comment\n")
    store = cache.BinaryCache()
    first, second = store.compile([source, renamed], 90)
    assert first is second
    code = Path(first.path).read_bytes()
    made = []
    original = cache._compile
    monkeypatch.setattr(cache, "_compile", lambda *arguments: made.append(1) or original(*arguments))
    assert cache.BinaryCache().compile([source], 90) == [first]
    assert not made
    Path(first.path).write_bytes(code[:100])
    assert cache.BinaryCache().compile([source], 90) == [first]
    assert made
    assert Path(first.path).read_bytes() == code
    Path(first.path).with_suffix(".json").write_text("{")
    assert cache.BinaryCache().compile([source], 90) == [first]


def test_sources_in_the_cache_are_compared_before_use(tmp_path, monkeypatch):
    monkeypatch.setenv("THUNDER_CACHE_DIR", str(tmp_path))
    source = KernelSource("copy", "text = 1\n", (), 4)
    path = Path(cache.source_path(source))
    assert path.read_text() == "text = 1\n"
    path.write_text("text = 2\n")
    assert Path(cache.source_path(source)).read_text() == "text = 1\n"
