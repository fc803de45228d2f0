"""The `inductor` executor: regions compiled by PyTorch's Inductor.

Input: regions whose traces are functional ATen programs.  Output: each region's `implementation`, generated code
that runs fused C++ kernels (on the CPU) between calls of library operators.

Inductor's Python runs under one lock, a region after the other; the C++ compiler works in parallel to it, one
library a region.  What Inductor or the compiler refuse runs operation by operation, after a warning.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder import _torch_compat
from thunder.errors import ExecutorWarning
from thunder.executors.cpp_kernels import CppCompileError, CppKernel, KernelLibrary, precompiled_header
from thunder.executors.executor import Executor, register_executor
from thunder.executors.graph_module import to_graph_module
from thunder.lower.operators import is_aten, is_random
from thunder.trace import Op, Region

_OPTIONS = {
    # Random numbers as eager draws them: same seed, same numbers.
    "fallback_random": True,
    "cpp_wrapper": False,
    "triton__cudagraphs": False,
    # Otherwise the instruction set is found out by compiling and running programs; PyTorch itself knows it.
    "cpp__vec_isa_ok": True,
}

_KERNELS_OF_A_LIBRARY = 5


class InductorExecutor(Executor):
    """Compiles whole regions."""

    name = "inductor"

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._warned = False
        self._prepared = False

    def unavailable_reason(self) -> str | None:
        if _torch_compat.cpp_compiler() is None:
            return "no C++ compiler was found (set CXX, or install g++ or clang++)"
        return None

    def prepare(self) -> None:
        """Begins with what takes long and needs no program: imports Inductor, looks for the precompiled header."""
        with self._lock:
            if self._prepared:
                return
            self._prepared = True
        threading.Thread(target=self._prepare, name="thunder-inductor", daemon=True).start()

    def _prepare(self) -> None:
        if self.unavailable_reason() is None:
            _torch_compat.import_inductor()
            with self._lock, _torch_compat.inductor_options(**_OPTIONS):
                precompiled_header.prepare()

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        return _torch_compat.inductor_decompositions()

    def can_execute(self, op: Op) -> bool:
        # Inductor orders random operations as it likes, and then they draw other numbers than in eager.
        return is_aten(op.target) and not is_random(op)

    def fuse(self, regions: list[Region]) -> None:
        reason = self.unavailable_reason()
        if reason is not None:
            if not self._warned:
                self._warned = True
                warnings.warn(f"the inductor executor is not used: {reason}", ExecutorWarning, stacklevel=2)
            return
        with self._lock, _torch_compat.inductor_options(**_OPTIONS), _torch_compat.inductor_fast_strides():
            batches: list[_Batch] = []
            for region in sorted(regions, key=lambda region: len(region.trace.ops), reverse=True):
                generated = _generate(region)
                if generated is None:
                    continue
                if not batches or batches[-1].started:
                    batches.append(_Batch())
                batches[-1].add(generated)
                if batches[-1].is_large:
                    batches[-1].start()
            for batch in batches:
                batch.start()
            for batch in batches:
                batch.finish()


class _Generated:
    """A region as Inductor's Python code, which calls kernels that are not compiled yet."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.kernels: list[CppKernel] = []
        graph_module, examples, self.constants = to_graph_module(region.trace)
        with torch.no_grad(), _torch_compat.inductor_cpp_kernels(self._kernel):
            self.call = _torch_compat.compile_with_inductor(graph_module, examples)

    def _kernel(self, argument_types: list[str], source: str) -> CppKernel:
        kernel = CppKernel(argument_types, source)
        self.kernels.append(kernel)
        return kernel

    def link(self, compiled: Sequence[Callable[..., None]]) -> None:
        """Puts the compiled kernels in the place of their placeholders; the region then runs this code."""
        by_placeholder = dict(zip(map(id, self.kernels), compiled))
        namespace = _namespace_of(self.call)
        for name, value in namespace.items():
            if isinstance(value, CppKernel) and id(value) in by_placeholder:
                namespace[name] = by_placeholder[id(value)]
        self.region.implementation = self._with_constants()
        self.region.boxed = True
        self.region.executor = InductorExecutor.name

    def _with_constants(self) -> Callable[[list[Any]], Any]:
        call, constants = self.call, self.constants
        if not constants:
            return call

        def call_with_constants(arguments: list[Any]) -> Any:
            arguments += constants
            return call(arguments)

        return call_with_constants


def _generate(region: Region) -> _Generated | None:
    try:
        return _Generated(region)
    except Exception as error:  # Inductor raises whatever its many parts raise; the region runs without it
        _warn(region, error)
        return None


class _Batch:
    """Regions whose kernels are compiled together, in the background."""

    def __init__(self) -> None:
        self.regions: list[_Generated] = []
        self.started = False
        self._library: KernelLibrary | None = None
        self._error: Exception | None = None

    @property
    def is_large(self) -> bool:
        """Whether compiling the kernels takes longer than parsing what every library includes."""
        return sum(len(generated.kernels) for generated in self.regions) >= _KERNELS_OF_A_LIBRARY

    def add(self, generated: _Generated) -> None:
        self.regions.append(generated)

    def start(self) -> None:
        """Starts the C++ compiler."""
        kernels = [kernel for generated in self.regions for kernel in generated.kernels]
        if self.started or not kernels:
            return
        self.started = True
        self._library = KernelLibrary(kernels)
        try:
            self._library.start()
        except OSError as error:  # no compiler after all, a full disk
            self._error = error

    def finish(self) -> None:
        """Waits for the kernels and links the regions with them."""
        compiled: list[Callable[..., None]] | None = []
        if self._library is not None:
            try:
                if self._error is not None:
                    raise self._error
                compiled = self._library.finish()
            except (CppCompileError, OSError, ImportError):
                compiled = None  # sources that do not go together: each by itself, as Inductor does it
        for generated in self.regions:
            count = len(generated.kernels)
            try:
                mine = (
                    [_torch_compat.compile_cpp_kernel(k.argument_types, k.source) for k in generated.kernels]
                    if compiled is None
                    else compiled[:count]
                )
            except Exception as error:  # as in `_generate`
                _warn(generated.region, error)
                continue
            compiled = None if compiled is None else compiled[count:]
            generated.link(mine)


def _namespace_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Globals of the generated module."""
    function = getattr(call, "__func__", call)
    return function.__globals__


def _warn(region: Region, error: BaseException) -> None:
    message = str(error).strip().splitlines()
    warnings.warn(
        f"inductor cannot compile the region {region.name}, which runs operation by operation: "
        f"{type(error).__name__}: {message[0] if message else ''}",
        ExecutorWarning,
        stacklevel=2,
    )


inductor = register_executor(InductorExecutor())
