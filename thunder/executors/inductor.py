"""The `inductor` executor: regions compiled by PyTorch's Inductor.

Input: regions whose traces are functional ATen programs.  Output: each region's `implementation`, generated code
that runs fused C++ kernels (on the CPU) between calls of library operators.

Inductor's Python runs under one lock, a region after the other; the C++ compiler works in parallel to it, one
library a region.  What Inductor or the compiler refuse runs operation by operation, after a warning.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch

from thunder import _torch_compat
from thunder.errors import ExecutorWarning
from thunder.executors.cpp_kernels import CppCompileError, CppKernel, KernelLibrary, precompiled_header
from thunder.executors.executor import Executor, register_executor
from thunder.executors.graph_module import to_graph_module
from thunder.lower.operators import is_aten
from thunder.trace import Op, Region

_OPTIONS = {
    # Random numbers as eager draws them: same seed, same numbers.
    "fallback_random": True,
    "cpp_wrapper": False,
    "triton__cudagraphs": False,
    # Otherwise the instruction set is found out by compiling and running programs; PyTorch itself knows it.
    "cpp__vec_isa_ok": True,
}


class InductorExecutor(Executor):
    """Compiles whole regions."""

    name = "inductor"

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._warned = False

    def unavailable_reason(self) -> str | None:
        if _torch_compat.cpp_compiler() is None:
            return "no C++ compiler was found (set CXX, or install g++ or clang++)"
        return None

    def prepare(self) -> None:
        """Begins with what takes long and needs no program: the precompiled header."""
        if self.unavailable_reason() is None:
            precompiled_header.prepare()

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        return _torch_compat.inductor_decompositions()

    def can_execute(self, op: Op) -> bool:
        return is_aten(op.target)

    def fuse(self, regions: list[Region]) -> None:
        reason = self.unavailable_reason()
        if reason is not None:
            if not self._warned:
                self._warned = True
                warnings.warn(f"the inductor executor is not used: {reason}", ExecutorWarning, stacklevel=2)
            return
        with self._lock, _torch_compat.inductor_options(**_OPTIONS), _torch_compat.inductor_fast_strides():
            started = [self._generate(region) for region in sorted(regions, key=_size, reverse=True)]
            for compilation in started:
                if compilation is not None:
                    compilation.finish()

    def _generate(self, region: Region) -> _Compilation | None:
        """Runs Inductor up to the C++ compiler, which is started."""
        compilation = _Compilation(region)
        try:
            compilation.generate()
            compilation.start()
        except Exception as error:  # Inductor raises whatever its many parts raise; the region runs without it
            _warn(region, error)
            return None
        return compilation


class _Compilation:
    """One region on its way through Inductor and the C++ compiler."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.kernels: list[CppKernel] = []
        self.library: KernelLibrary | None = None

    def generate(self) -> None:
        """Inductor: from the trace to Python that calls kernels which are not compiled yet."""
        graph_module, examples, self.constants = to_graph_module(self.region.trace)
        with torch.no_grad(), _torch_compat.inductor_cpp_kernels(self._kernel):
            self.call = _torch_compat.compile_with_inductor(graph_module, examples)

    def _kernel(self, argument_types: list[str], source: str) -> CppKernel:
        kernel = CppKernel(argument_types, source)
        self.kernels.append(kernel)
        return kernel

    def start(self) -> None:
        if self.kernels:
            self.library = KernelLibrary(self.kernels)
            self.library.start()

    def finish(self) -> None:
        """Waits for the kernels and puts them into the generated code."""
        try:
            compiled = self._compiled_kernels()
        except Exception as error:  # as in `_generate`
            _warn(self.region, error)
            return
        by_placeholder = dict(zip(map(id, self.kernels), compiled))
        namespace = _namespace_of(self.call)
        for name, value in namespace.items():
            if isinstance(value, CppKernel) and id(value) in by_placeholder:
                namespace[name] = by_placeholder[id(value)]
        self.region.implementation = self._with_constants()
        self.region.boxed = True
        self.region.executor = InductorExecutor.name

    def _compiled_kernels(self) -> list[Callable[..., Any]]:
        if self.library is None:
            return []
        try:
            return self.library.finish()
        except CppCompileError:
            # Sources that do not go together in one file: each by itself, as Inductor does it.
            return [_torch_compat.compile_cpp_kernel(k.argument_types, k.source) for k in self.kernels]

    def _with_constants(self) -> Callable[[list[Any]], Any]:
        call, constants = self.call, self.constants
        if not constants:
            return call

        def call_with_constants(arguments: list[Any]) -> Any:
            arguments += constants
            return call(arguments)

        return call_with_constants


def _namespace_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Globals of the generated module."""
    function = getattr(call, "__func__", call)
    return function.__globals__


def _size(region: Region) -> int:
    return len(region.trace.ops)


def _warn(region: Region, error: BaseException) -> None:
    message = str(error).strip().splitlines()
    warnings.warn(
        f"inductor cannot compile the region {region.name}, which runs operation by operation: "
        f"{type(error).__name__}: {message[0] if message else ''}",
        ExecutorWarning,
        stacklevel=2,
    )


inductor = register_executor(InductorExecutor())
