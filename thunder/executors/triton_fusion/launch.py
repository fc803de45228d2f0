"""Calling compiled kernels.

Input: a kernel, its schedule, its machine code.  Output: a function of the region's inputs that allocates the outputs
and launches the kernel.  The function is generated: what a launch needs is written into it, and the C function that
PyTorch has for launching machine code is called directly.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder import _torch_compat
from thunder.executors.triton_fusion.kernel import Kernel
from thunder.executors.triton_fusion.schedule import Schedule
from thunder.kernels import compile_worker
from thunder.kernels.binaries import Binary, KernelSource, binaries, source_path
from thunder.trace import Var, compile_source

Launch = Callable[..., tuple[torch.Tensor, ...]]


class FusedKernel:
    """A region's implementation.

    Attributes:
        name: of the kernel.
        source: the Triton program.
        kernel, schedule: what it was made from.
    """

    def __init__(
        self, source: KernelSource, kernel: Kernel, schedule: Schedule, inputs: Sequence[Var], outputs: Sequence[Var]
    ) -> None:
        self.name = self.__name__ = source.name
        self.source = source.text
        self.kernel, self.schedule = kernel, schedule
        self.kernel_source = source
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._link_lock = threading.Lock()
        self._launch: Launch | None = None

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self._launch or self.link())(*arguments)

    def request(self) -> None:
        """Begins to compile the kernel, in the background."""
        binaries.request(self.kernel_source, _torch_compat.cuda_architecture(self._outputs[0].value.device))

    def link(self) -> Launch:
        """Loads the machine code, once."""
        with self._link_lock:
            if self._launch is None:
                self._launch = self._interpreted() if _torch_compat.is_triton_interpreted() else self._compiled()
            return self._launch

    def bytes_moved(self) -> int:
        """Bytes of the inputs and outputs, each once."""
        tensors = [var.value for var in self.kernel.inputs] + [store.var.value for store in self.kernel.stores]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _interpreted(self) -> Launch:
        function, programs = load_function(self.kernel_source), self.schedule.programs(self.kernel)

        def call(*tensors: torch.Tensor) -> None:
            function[(programs,)](*tensors)

        body = [f"    call({', '.join([*self._read(), *self._written()])})"]
        return self._function(body, {"call": call})

    def _compiled(self) -> Launch:
        device = self._outputs[0].value.device
        architecture = _torch_compat.cuda_architecture(device)
        binary = binaries.request(self.kernel_source, architecture).result()
        body, read = [], self._read()
        for name in read:
            body.append(f"    {name}_p = {name}.data_ptr()")
        if read:
            joined = " | ".join(f"{name}_p" for name in read)
            body.append(f"    if ({joined}) & 15: return misaligned({self._parameters()})")
        body += self._launch_statement(binary, device, [f"{name}_p" for name in read])
        namespace = {
            **self._launch_names(binary, device),
            "misaligned": lambda *arguments: self._launch_misaligned(*arguments),
        }
        return self._function(body, namespace)

    def _launch_misaligned(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For arguments that do not begin at a multiple of 16 bytes: the kernel compiled for such."""
        device = self._outputs[0].value.device
        architecture = _torch_compat.cuda_architecture(device)
        binary = binaries.request(self.kernel_source, architecture, aligned=False).result()
        pointers = [f"{name}.data_ptr()" for name in self._read()]
        launch = self._function(self._launch_statement(binary, device, pointers), self._launch_names(binary, device))
        self._launch_misaligned = launch  # type: ignore[method-assign]
        return launch(*arguments)

    def _launch_names(self, binary: Binary, device: torch.device) -> dict[str, Any]:
        launch, function = _torch_compat.load_cuda_kernel(binary.path, binary.name, binary.shared_bytes, device)
        return {
            "launch": launch,
            "function": function,
            "stream_of": _torch_compat.current_cuda_stream_function(),
            "on_device": torch.cuda.device,
            "current_device": torch.cuda.current_device,
        }

    def _launch_statement(self, binary: Binary, device: torch.device, pointers: list[str]) -> list[str]:
        index = device.index or 0
        given = [*pointers, *(f"{name}.data_ptr()" for name in self._written()), *["None"] * binary.scratch_arguments]
        kinds = "O" * len(given)
        programs = self.schedule.programs(self.kernel)
        call = (
            f"launch(function, {programs}, 1, 1, {binary.warps}, {binary.shared_bytes}, "
            f"{kinds!r}, ({', '.join(given)},), stream_of({index}))"
        )
        if torch.cuda.device_count() == 1:
            return [f"    {call}"]
        return [
            f"    if current_device() == {index}: {call}",
            "    else:",
            f"        with on_device({index}): {call}",
        ]

    def _parameters(self) -> str:
        return ", ".join(f"a{number}" for number in range(len(self._inputs)))

    def _read(self) -> list[str]:
        names = {id(var): f"a{number}" for number, var in enumerate(self._inputs)}
        return [names[id(var)] for var in self.kernel.inputs]

    def _written(self) -> list[str]:
        names = {id(var): f"o{number}" for number, var in enumerate(self._outputs)}
        return [names[id(store.var)] for store in self.kernel.stores]

    def _function(self, body: list[str], namespace: dict[str, Any]) -> Launch:
        """`launch(inputs...) -> (outputs...)` around the statements of `body`."""
        lines = [f"def launch_{self.name}({self._parameters()}):"]
        for number, var in enumerate(self._outputs):
            tensor = var.value
            namespace[f"dtype{number}"] = tensor.dtype
            lines.append(
                f"    o{number} = empty_strided({tuple(tensor.shape)}, {tuple(tensor.stride())}, "
                f"dtype=dtype{number}, device=device)"
            )
        outputs = "".join(f"o{number}, " for number in range(len(self._outputs)))
        lines += [*body, f"    return ({outputs})", ""]
        namespace |= {"empty_strided": torch.empty_strided, "device": self._outputs[0].value.device}
        return compile_source("\n".join(lines), f"launch_{self.name}", namespace)


def load_function(source: KernelSource) -> Any:
    """The `@triton.jit` function of a kernel, for Triton's interpreter."""
    module = compile_worker.load_module(source_path(source))
    if _torch_compat.is_triton_interpreted() and hasattr(module, "device_math"):
        # The interpreter cannot call the device's mathematical library.
        module.device_math = importlib.import_module("thunder.executors.triton_fusion.interpreted_math")
    return getattr(module, source.name)
