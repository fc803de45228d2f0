"""Launching the library's Triton kernels from kept machine code, without Triton's front end.

Input: a `@triton.jit` function, a grid, arguments as for a launch by Triton.  Output: the launch.  A kernel's text is
written out with what it calls and compiled as the fuser's kernels are: in other processes, once in the folder's life.
Triton's own launch is left to its interpreter, to builds of PyTorch that cannot load machine code, and to kernels that
use more of their module than functions.

Within `compile_ahead`, launches begin to compile what they would run, and run nothing: so whoever has the shapes can
have kernels compiled ahead.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from thunder import _torch_compat
from thunder.errors import KernelLaunchError
from thunder.kernels.binaries import KernelSource, binaries
from thunder.kernels.compile_ahead import is_request
from thunder.kernels.launch import is_interpreted

_HEADER = "import triton\nimport triton.language as tl\n\n\n"
_POINTERS = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8", torch.uint8: "*u8",
    torch.bool: "*i1",
}  # fmt: skip
_TRITONS_STAGES = 3
_EARLY_LAUNCH = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


def launch_kernel(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int = 4,
    num_stages: int | None = None,
    launch_pdl: bool = False,
    **constants: Any,
) -> None:
    """Launches a kernel of the library.

    Args:
        kernel: the `@triton.jit` function; its constants are its last parameters.
        grid: number of programs along up to three axes.
        arguments: tensors, the first among them, and numbers.
        num_warps, num_stages: as for Triton.
        launch_pdl: the kernel may begin while the one before it is running; it waits for that one itself.
        constants: values of the parameters of type `tl.constexpr`.
    """
    device = arguments[0].device
    text = _standalone_text(kernel) if device.type == "cuda" and _has_launcher() and not is_interpreted() else None
    if text is None:
        if not is_request():
            stages = {} if num_stages is None else {"num_stages": num_stages}
            early = {"launch_pdl": True} if launch_pdl else {}
            kernel[grid](*arguments, **constants, num_warps=num_warps, **stages, **early)
        return
    kinds = tuple([_kind(argument) for argument in arguments])
    key = (kernel.fn, kinds, tuple(constants.items()), num_warps, num_stages, device.index)
    ready = _ready.get(key)
    if ready is None or is_request():
        source = _source(kernel, text, kinds, constants, num_warps, num_stages or _TRITONS_STAGES)
        future = binaries.request(source, _torch_compat.cuda_architecture(device))
        if is_request():
            return
        ready = _ready[key] = _load(future.result(), kinds, device)
    ready.launch(grid, arguments, launch_pdl)


@functools.cache
def _has_launcher() -> bool:
    return torch.version.cuda is not None and _torch_compat.has_cuda_kernel_launcher()


# --- the text ----------------------------------------------------------------------------------------------


_texts: dict[Any, str | None] = {}


def _standalone_text(kernel: Any) -> str | None:
    """A module with the kernel and the functions that it calls; None where it uses something else of its own module."""
    if kernel.fn not in _texts:  # the hash of a kernel itself is one of its source
        functions: dict[str, Any] = {}
        whole = _collect(kernel, functions)
        text = _HEADER + "\n\n".join("".join(function.raw_src) for function in functions.values())
        _texts[kernel.fn] = text if whole else None
    return _texts[kernel.fn]


def _collect(kernel: Any, functions: dict[str, Any]) -> bool:
    """Adds what the kernel calls, then the kernel; says whether that is all that it uses of its module."""
    for name in kernel.fn.__code__.co_names:
        value = kernel.fn.__globals__.get(name)
        if isinstance(value, triton.JITFunction):
            if name not in functions and not _collect(value, functions):
                return False
        elif value is not None and value is not tl and value is not triton:
            return False
    return functions.setdefault(kernel.fn.__name__, kernel) is kernel


# --- kinds of arguments -------------------------------------------------------------------------------------


def _kind(value: Any) -> Hashable:
    """What a kernel is specialised on: (type, whether the value is a multiple of 16); 1 for the number 1."""
    if isinstance(value, torch.Tensor):
        if is_request():
            return value.dtype, value.storage_offset() * value.element_size() % 16 == 0
        return value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, float):
        return "fp32", False
    number = int(value)
    if number == 1:
        return 1
    return ("i32" if -(2**31) <= number < 2**31 else "i64"), number % 16 == 0


def _source(
    kernel: Any, text: str, kinds: tuple[Any, ...], constants: dict[str, Any], warps: int, stages: int
) -> KernelSource:
    names = kernel.arg_names
    signature: list[tuple[str, str]] = []
    divisible: list[int] = []
    fixed: dict[str, Any] = {}
    for position, name in enumerate(names):
        if position >= len(kinds):
            signature.append((name, "constexpr"))
            fixed[name] = constants[name]
            continue
        kind = kinds[position]
        if kind == 1:
            signature.append((name, "constexpr"))
            fixed[name] = 1
            continue
        type_, is_divisible = kind
        signature.append((name, _POINTERS[type_] if isinstance(type_, torch.dtype) else type_))
        if is_divisible:
            divisible.append(position)
    return KernelSource(
        kernel.fn.__name__, text, tuple(signature), warps, tuple(fixed.items()), tuple(divisible), stages
    )


# --- the launch ---------------------------------------------------------------------------------------------


class _Attribute(ctypes.Structure):
    """`CUlaunchAttribute`: a number that says which, and 64 bytes for its value."""

    _fields_ = [("id", ctypes.c_uint32), ("padding", ctypes.c_uint32), ("value", ctypes.c_uint32 * 16)]


class _Configuration(ctypes.Structure):
    """`CUlaunchConfig`."""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint32),
    ]


_early_attribute = _Attribute(_EARLY_LAUNCH, 0, (ctypes.c_uint32 * 16)(1))


@functools.cache
def _launch_function() -> Any:
    function = ctypes.CDLL("libcuda.so.1").cuLaunchKernelEx
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


@dataclass(frozen=True)
class _Ready:
    """A loaded kernel.

    Attributes:
        name: for messages.
        function: its handle.
        warps, shared_bytes: how it is launched.
        fixed: which arguments are part of the machine code.
        scratch_arguments: null pointers that follow its own arguments.
        device: on which it is loaded.
        stream_of: gives the current stream of a device.
    """

    name: str
    function: int
    warps: int
    shared_bytes: int
    fixed: tuple[bool, ...]
    scratch_arguments: int
    device: int
    stream_of: Callable[[int], int]

    def launch(self, grid: tuple[int, ...], arguments: tuple[Any, ...], early: bool) -> None:
        values = [_bits(value) for value, is_fixed in zip(arguments, self.fixed) if not is_fixed]
        values += [0] * self.scratch_arguments
        count = len(values)
        storage = (ctypes.c_uint64 * count)(*values)
        begin = ctypes.addressof(storage)
        pointers = (ctypes.c_uint64 * count)(*range(begin, begin + 8 * count, 8))
        configuration = _Configuration(
            (*grid, 1, 1)[:3], (32 * self.warps, 1, 1), self.shared_bytes, self.stream_of(self.device),
            ctypes.pointer(_early_attribute) if early else None, 1 if early else 0,
        )  # fmt: skip
        is_current = torch.cuda.current_device() == self.device
        with nullcontext() if is_current else torch.cuda.device(self.device):
            result = _launch_function()(
                ctypes.addressof(configuration), self.function, ctypes.addressof(pointers), None
            )
        if result != 0:
            raise KernelLaunchError(
                f"the kernel {self.name} was not launched: CUDA's error {result}",
                remedy="an error of a kernel before it may be the cause: CUDA_LAUNCH_BLOCKING=1 shows which",
            )


_ready: dict[Hashable, _Ready] = {}


def _load(binary: Any, kinds: tuple[Any, ...], device: torch.device) -> _Ready:
    index = torch.cuda.current_device() if device.index is None else device.index
    _, function = _torch_compat.load_cuda_kernel(binary.path, binary.name, binary.shared_bytes, device)
    fixed = tuple(kind == 1 for kind in kinds)
    stream_of = _torch_compat.current_cuda_stream_function()
    return _Ready(
        binary.name, function, binary.warps, binary.shared_bytes, fixed, binary.scratch_arguments, index, stream_of
    )


def _bits(value: Any) -> int:
    """An argument as the bytes that a kernel takes it from."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(value) & 0xFFFFFFFFFFFFFFFF
