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
import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from thunder.executors.triton_fusion.source import KernelSource

_THREADS = 8


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
    _write(path, source.text.encode())
    return path


def load_function(source: KernelSource) -> Any:
    """The `@triton.jit` function of a kernel."""
    path = source_path(source)
    name = f"thunder_kernel_{os.path.basename(path)[:-3]}"
    module = sys.modules.get(name) or _import(name, path)
    return getattr(module, source.name)


def _import(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


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
                    workers = max(2, min(_THREADS, os.cpu_count() or 2))
                    self._pool = ThreadPoolExecutor(workers, thread_name_prefix="thunder-triton")
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
    compiled = compile_for(source, architecture, aligned=aligned)
    code, metadata = compiled.asm["cubin"], compiled.metadata
    scratch = [getattr(metadata, f"{kind}_scratch_size", None) for kind in ("global", "profile")]
    if any(scratch):
        raise RuntimeError(f"the kernel {source.name} wants scratch memory")
    binary = Binary(
        f"{stem}.cubin",
        metadata.name,
        metadata.num_warps,
        metadata.shared,
        sum(size is not None for size in scratch),
        hashlib.sha256(code).hexdigest(),
    )
    facts = {name: value for name, value in asdict(binary).items() if name != "path"}
    _write(binary.path, code)
    _write(f"{stem}.json", json.dumps(facts).encode())
    return binary


def compile_for(source: KernelSource, architecture: int, *, aligned: bool = True) -> Any:
    """Triton's result for a kernel on an architecture (90 for `sm_90`); no GPU is needed."""
    import triton  # takes a third of a second, and is not needed where every kernel is in the cache
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = load_function(source)
    attributes = {(n,): [["tt.divisibility", 16]] for n in range(len(source.signature))} if aligned else {}
    signature = ASTSource(function, dict(source.signature), {}, attributes)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(signature, target=target, options={"num_warps": source.warps, "num_stages": 1})


@functools.lru_cache(maxsize=1)
def _versions() -> str:
    """What machine code depends on besides the kernel's text."""
    device = os.path.join(os.path.dirname(__file__), "device.py")
    with open(device, encoding="utf-8") as file:
        return f"{importlib.metadata.version('triton')} {_digest(file.read())}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: str, contents: bytes) -> None:
    """Puts a file in place, whole."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "wb") as file:
        file.write(contents)
    os.replace(temporary, path)
