"""Compiled kernels on disk.

Input: kernels' sources and the GPU's architecture.  Output: for each the file with its machine code and what is needed
to load it.  Kernels of equal text are compiled once, several at a time.

The folder may be shared by processes and may be damaged: every file is written aside and moved into place, and what
is read is compared with its checksum; what does not fit is compiled again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from thunder.kernels import compile_worker as worker

_MOST_PROCESSES = 16


@dataclass(frozen=True)
class KernelSource:
    """A kernel's text.

    Attributes:
        name: of the function.
        text: the source, with comments.
        signature: name and type of each parameter; for a constant, "constexpr".
        warps: threads of a program, in units of 32.
        constants: names and values.
        divisible: positions of the parameters that are multiples of 16; None for all, where they are pointers.
        stages: how many steps of a loop overlap, where the loop does not say.
    """

    name: str
    text: str
    signature: tuple[tuple[str, str], ...]
    warps: int
    constants: tuple[tuple[str, Any], ...] = ()
    divisible: tuple[int, ...] | None = None
    stages: int = 1

    @property
    def key(self) -> str:
        """What it is without comments: kernels of equal keys are interchangeable."""
        lines = (re.sub(r"\s*# .*$", "", line) for line in self.text.splitlines())
        facts = (self.signature, self.warps, self.constants, self.divisible, self.stages)
        return "\n".join([*(line for line in lines if line.strip()), repr(facts)])


@dataclass(frozen=True)
class Binary:
    """Machine code of one kernel.

    Attributes:
        path: the file.
        name: the kernel's name in it.
        warps, shared_bytes: how it is launched.
        scratch_arguments: null pointers that follow its own arguments.
        checksum: of the file.
    """

    path: str
    name: str
    warps: int
    shared_bytes: int
    scratch_arguments: int
    checksum: str


def cache_directory() -> str:
    """The folder of compiled kernels: `THUNDER_CACHE_DIR`, or one in the user's cache folder."""
    root = os.environ.get("THUNDER_CACHE_DIR")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        root = os.path.join(base, "thunder")
    return os.path.join(root, "triton")


def source_path(source: KernelSource) -> str:
    """Where the source is, which is written when it is not there."""
    path = os.path.join(cache_directory(), "source", f"{source.name}_{_digest(source.text)[:16]}.py")
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        if file.read() == source.text:
            return path
    worker.write_file(path, source.text.encode())
    return path


def job(source: KernelSource, architecture: int, *, aligned: bool = True, stem: str = "") -> worker.Job:
    """What a worker is told about a kernel."""
    divisible: Sequence[int] = source.divisible or ()
    if source.divisible is None and aligned:
        divisible = range(len(source.signature))
    return {
        "source": source_path(source),
        "name": source.name,
        "signature": list(source.signature),
        "warps": source.warps,
        "architecture": architecture,
        "divisible": list(divisible),
        "constants": dict(source.constants),
        "stages": source.stages,
        "stem": stem,
    }


def compile_for(source: KernelSource, architecture: int, *, aligned: bool = True) -> Any:
    """Triton's result for a kernel on an architecture (90 for `sm_90`); no GPU is needed."""
    return worker.compile_kernel(job(source, architecture, aligned=aligned))


class _Workers:
    """Processes that compile; each is started when there is work and none is free."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()

    def compile(self, work: worker.Job) -> bool:
        """Whether a process has compiled the kernel; False where that failed for whatever reason."""
        try:
            process = self._free.get_nowait()
        except queue.Empty:
            process = self._start()
        for _ in range(2):
            try:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(json.dumps(work) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                answer = ""
            if answer:
                self._free.put(process)
                return answer == "\n"
            process.kill()  # it had no work for long, or died
            process.wait()
            process = self._start()
        process.kill()
        process.wait()
        return False

    def _start(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment.setdefault("TRITON_CACHE_DIR", os.path.join(cache_directory(), "work"))
        command = [sys.executable, worker.__file__]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip


_workers = _Workers()


def _process_count() -> int:
    """How many kernels are compiled at a time: `THUNDER_COMPILE_PROCESSES`, or as many as there are cores."""
    chosen = os.environ.get("THUNDER_COMPILE_PROCESSES", "")
    return (
        int(chosen)
        if chosen.isdecimal() and int(chosen)
        else max(2, min(_MOST_PROCESSES, len(os.sched_getaffinity(0))))
    )


class BinaryCache:
    """Compiles kernels for one architecture, each text once in a process, and once in the folder's life."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[str, Future[Binary]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def request(self, source: KernelSource, architecture: int, *, aligned: bool = True) -> Future[Binary]:
        """Begins to compile a kernel; `aligned`: every pointer is a multiple of 16 bytes."""
        key = _digest("\n".join([source.key, str(architecture), str(aligned), _versions()]))
        with self._lock:
            future = self._futures.get(key)
            if future is None:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_process_count(), thread_name_prefix="thunder-triton")
                future = self._pool.submit(_binary, source, architecture, aligned, key)
                self._futures[key] = future
        return future

    def compile(self, sources: Sequence[KernelSource], architecture: int) -> list[Binary]:
        """Binaries of kernels, in order."""
        return [future.result() for future in [self.request(source, architecture) for source in sources]]


binaries = BinaryCache()


def _binary(source: KernelSource, architecture: int, aligned: bool, key: str) -> Binary:
    stem = os.path.join(cache_directory(), f"sm_{architecture}", key[:2], key)
    return _read(stem) or _compile(source, architecture, aligned, stem)


def _read(stem: str) -> Binary | None:
    """What the folder has, if it is whole."""
    try:
        with open(f"{stem}.json", encoding="utf-8") as file:
            facts = json.load(file)
        binary = Binary(path=f"{stem}.cubin", **facts)
        with open(binary.path, "rb") as code:
            whole = hashlib.sha256(code.read()).hexdigest() == binary.checksum
    except (OSError, ValueError, TypeError):
        return None
    return binary if whole else None


def _compile(source: KernelSource, architecture: int, aligned: bool, stem: str) -> Binary:
    work = job(source, architecture, aligned=aligned, stem=stem)
    if not _workers.compile(work):
        worker.compile_and_keep(work)  # raises what is wrong
    binary = _read(stem)
    if binary is None:
        raise OSError(f"the machine code of {source.name} cannot be kept in {os.path.dirname(stem)}")
    return binary


@functools.lru_cache(maxsize=1)
def _versions() -> str:
    """What machine code depends on besides the kernel's text."""
    return importlib.metadata.version("triton")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
