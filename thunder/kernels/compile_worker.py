"""Compiles kernels; also the program of processes that do it in parallel.

Input, as a process: one JSON object a line, a `Job`.  Output: one line for each, empty when the machine code is in its
place, else the error.  The process ends when its input does, or when it has had no work for a while.

Triton's front end is Python, which threads would run one after the other.  Only the standard library and Triton are
imported: a process is ready in half a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import select
import sys
import tempfile
from typing import Any, TypedDict

_PATIENCE_SECONDS = 60.0


class Job(TypedDict):
    """One kernel.

    source: path of its Python source.  name: of the function.  signature: name and type of each parameter.
    constants: value of each parameter of type "constexpr".  divisible: positions of those that are multiples of 16.
    warps: of a program.  stages: how many steps of a loop overlap.  architecture: 90 for `sm_90`.
    stem: where the machine code goes, without the ending.
    """

    source: str
    name: str
    signature: list[tuple[str, str]]
    warps: int
    architecture: int
    constants: dict[str, Any]
    divisible: list[int]
    stages: int
    stem: str


def load_module(path: str) -> Any:
    """The module at a path, imported once."""
    name = f"thunder_kernel_{os.path.basename(path)[:-3]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def compile_kernel(job: Job) -> Any:
    """Triton's result for a kernel; no GPU is needed."""
    import triton  # takes a third of a second, and is not needed where every kernel is in the cache
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(load_module(job["source"]), job["name"])
    attributes = {(position,): [["tt.divisibility", 16]] for position in job["divisible"]}
    source = ASTSource(function, dict(job["signature"]), job["constants"], attributes)
    target = GPUTarget("cuda", job["architecture"], 32)
    return triton.compile(source, target=target, options={"num_warps": job["warps"], "num_stages": job["stages"]})


def compile_and_keep(job: Job) -> None:
    """Compiles a kernel and puts its machine code, and what is needed to load it, at `stem`."""
    compiled = compile_kernel(job)
    code, metadata = compiled.asm["cubin"], compiled.metadata
    scratch = [getattr(metadata, f"{kind}_scratch_size", None) for kind in ("global", "profile")]
    if any(scratch):
        raise RuntimeError(f"the kernel {job['name']} wants scratch memory")
    facts = {
        "name": metadata.name,
        "warps": metadata.num_warps,
        "shared_bytes": metadata.shared,
        "scratch_arguments": sum(size is not None for size in scratch),
        "checksum": hashlib.sha256(code).hexdigest(),
    }
    write_file(f"{job['stem']}.cubin", code)
    write_file(f"{job['stem']}.json", json.dumps(facts).encode())


def write_file(path: str, contents: bytes) -> None:
    """Puts a file in place, whole."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "wb") as file:
        file.write(contents)
    os.replace(temporary, path)


def _skip_key_of_triton() -> None:
    """Triton tells its own versions apart by a checksum of its 400 MB library, which takes a second in every process;
    here the version is a part of the name under which machine code is kept."""
    import triton
    from triton.runtime import cache

    if hasattr(cache, "triton_key"):
        cache.triton_key = lambda: triton.__version__


def serve() -> None:
    """Answers jobs until there are no more."""
    _skip_key_of_triton()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what compilers print must not be taken for an answer
    while select.select([sys.stdin], [], [], _PATIENCE_SECONDS)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        try:
            compile_and_keep(json.loads(line))
            answers.write("\n")
        except Exception as error:  # whatever it is, the process that asked raises it by compiling the kernel itself
            answers.write(f"{type(error).__name__}: {error}".replace("\n", " ") + "\n")


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules are no top-level ones
    serve()
