"""The table of kernels: which pattern each one replaces, and when.

Input: `register_kernel(...)`, called by the library's own files and by users.  Output: `Kernel` entries in the order
in which they are tried, the newest of the users' first.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from thunder.errors import OptionError, unknown_name
from thunder.kernels.pattern import Pattern
from thunder.trace import Trace

Mode = Literal["measured", "always", "never"]


@dataclass(frozen=True)
class Kernel:
    """One substitution.

    Attributes:
        name: for `disable_kernels` and messages.
        patterns: what it computes, in the spellings that programs use.
        kernel: called in place of the pattern: a custom op, or a function of PyTorch calls and custom ops.
        check: given the placeholders' values (tensors without data, constants) by name: whether to use the kernel.
        arguments: makes the kernel's arguments of the placeholders' values; without it they are handed over in order.
        devices: types of the devices that it works on.
        inference_only: whether it has no gradient: it is then used where none is needed.
        is_fusible: whether a fusing executor does it as fast, with what stands around it: it is left to one, if any.
    """

    name: str
    patterns: tuple[Pattern, ...]
    kernel: Callable[..., Any]
    check: Callable[..., bool]
    arguments: Callable[..., tuple[Any, ...]] | None
    devices: tuple[str, ...]
    inference_only: bool = False
    is_fusible: bool = False


# The library's own files.
LIBRARY = (
    "linear_cross_entropy", "cross_entropy", "gemv", "rms_norm", "layer_norm", "rope", "swiglu", "embedding",
)  # fmt: skip

# Of two kernels that fit, which is tried first.
PRECEDENCE = (
    "linear_cross_entropy", "linear_cross_entropy_of_tokens", "linear_cross_entropy_with_logits", "cross_entropy",
    "gemv_gated_silu", "gemv_gated_gelu", "gemv_gated_gelu_tanh", "gemv_residual", "add_rms_norm", "rms_norm",
    "add_layer_norm", "layer_norm", "rope", "gated_silu", "gated_gelu", "gated_gelu_tanh", "embedding",
)  # fmt: skip

_kernels: list[Kernel] = []
_library_loaded = False
_mode: contextvars.ContextVar[Mode] = contextvars.ContextVar("kernel_mode", default="measured")
_disabled: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar("disabled_kernels", default=frozenset())
_stand_ins: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("device_stand_ins", default=None)


def register_kernel(
    name: str,
    pattern: Callable[..., Any] | Sequence[Callable[..., Any]],
    kernel: Callable[..., Any],
    *,
    check: Callable[..., bool] | None = None,
    arguments: Callable[..., tuple[Any, ...]] | None = None,
    devices: Sequence[str] = ("cuda",),
    inference_only: bool = False,
) -> Kernel:
    """Has `kernel` called wherever a program computes what `pattern` computes.

    Args:
        name: a name of your own; registering it again replaces the kernel.
        pattern: a function, or several, in plain PyTorch. Its parameters stand for tensors and constants of the
            program; sizes, dtypes and numbers such as an epsilon are parameters too.
        kernel: takes the pattern's parameters in order and returns what the pattern returns: a `torch.library` custom
            op (with `register_autograd` if it is to be used in training), or a function made of such calls.
        check: takes the pattern's parameters by name and says whether the kernel may be used: tensors have shape,
            strides, dtype, device and requires_grad, but no data. Without it, always.
        arguments: makes the kernel's arguments of the pattern's parameters, given by name.
        devices: types of the devices that the kernel works on.
        inference_only: the kernel has no gradient; it is used where none is needed.

    Returns:
        The entry; `unregister_kernel(name)` removes it.

    Example:
        >>> import torch, thunder
        >>> @torch.library.custom_op("mine::scaled_relu", mutates_args=())
        ... def scaled_relu(x: torch.Tensor, scale: float) -> torch.Tensor:
        ...     return torch.relu(x) * scale          # here, a call of your kernel
        >>> @scaled_relu.register_fake
        ... def _(x, scale):
        ...     return torch.empty_like(x)
        >>> def pattern(x, scale):
        ...     return torch.relu(x) * scale
        >>> entry = thunder.register_kernel("scaled_relu", pattern, scaled_relu, devices=("cpu", "cuda"))
    """
    if not callable(kernel):
        raise OptionError(f"the kernel {name!r} is not callable", remedy="pass a custom op or a function")
    patterns = tuple(map(Pattern.of, [pattern] if callable(pattern) else pattern))
    kernel = getattr(kernel, "_opoverload", kernel)  # a custom op appears in traces as torch.ops.mine.op.default
    entry = Kernel(name, patterns, kernel, check or _always, arguments, tuple(devices), inference_only)
    load_library()
    _put(entry, first=True)
    return entry


def register_library_kernel(
    name: str,
    patterns: Sequence[Callable[..., Any]],
    kernel: Callable[..., Any],
    *,
    check: Callable[..., bool],
    arguments: Callable[..., tuple[Any, ...]],
    inference_only: bool = False,
    is_fusible: bool = False,
) -> None:
    """`register_kernel` for the library's own files: behind the users' kernels, at its place in `PRECEDENCE`."""
    listed = tuple(map(Pattern.of, patterns))
    _put(Kernel(name, listed, kernel, check, arguments, ("cuda",), inference_only, is_fusible), first=False)


def _put(entry: Kernel, *, first: bool) -> None:
    for position, known in enumerate(_kernels):
        if known.name == entry.name:
            _kernels[position] = entry
            return
    _kernels.insert(0, entry)
    if not first:
        _kernels.sort(key=_place)


def _place(entry: Kernel) -> int:
    """Users' kernels come first, then the library's in the order of `PRECEDENCE`."""
    return PRECEDENCE.index(entry.name) if entry.name in PRECEDENCE else -1


def _always(**_values: Any) -> bool:
    return True


def unregister_kernel(name: str) -> None:
    """Removes a kernel from the table."""
    if name not in kernel_names():
        raise unknown_name("kernel", name, kernel_names())
    _kernels[:] = [entry for entry in _kernels if entry.name != name]


def kernel_names() -> list[str]:
    """Names of the known kernels, in the order in which they are tried."""
    load_library()
    return [entry.name for entry in _kernels]


def active_kernels(*, is_fused: bool) -> list[Kernel]:
    """The kernels that are tried now.

    Args:
        is_fused: whether a fusing executor takes the rest of the program.
    """
    load_library()
    disabled = _disabled.get()
    leaves = is_fused and current_mode() != "always"
    return [entry for entry in _kernels if entry.name not in disabled and not (leaves and entry.is_fusible)]


def load_library() -> None:
    """Imports the library's own files; they need Triton, without which there are only the users' kernels."""
    global _library_loaded
    if not _library_loaded:
        _library_loaded = True
        if importlib.util.find_spec("triton") is not None:
            for name in LIBRARY:
                importlib.import_module(f"thunder.kernels.{name}")


@contextlib.contextmanager
def kernel_mode(mode: Mode) -> Iterator[None]:
    """Within the block, programs are compiled with kernels "always", "never", or where they were "measured" faster.

    "measured", the default, uses them on their devices only; "always" everywhere, with their plain PyTorch form on
    the CPU.
    """
    if mode not in ("measured", "always", "never"):
        raise unknown_name("mode of kernels", mode, ["always", "measured", "never"])
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


@contextlib.contextmanager
def disable_kernels(*names: str) -> Iterator[None]:
    """Within the block, programs are compiled without the kernels of these names."""
    token = _disabled.set(_disabled.get() | frozenset(names))
    try:
        yield
    finally:
        _disabled.reset(token)


@contextlib.contextmanager
def device_stand_in(stand_in: str, device_type: str) -> Iterator[None]:
    """Within the block, programs on devices of type `stand_in` are given the kernels of `device_type`.

    For programs that are looked at and never run: on the meta device, those of a GPU that is not there.
    """
    token = _stand_ins.set({stand_in: device_type})
    try:
        yield
    finally:
        _stand_ins.reset(token)


def kernel_device_type(device: torch.device) -> str:
    """The type of the device whose kernels a program on `device` is given."""
    return (_stand_ins.get() or {}).get(device.type, device.type)


def current_mode() -> Mode:
    return _mode.get()


def is_disabled(name: str) -> bool:
    return _mode.get() == "never" or name in _disabled.get()


def is_wanted_on(device_type: str, devices: Sequence[str] = ("cuda",)) -> bool:
    """Whether kernels for `devices` are used on tensors of this type of device."""
    mode = _mode.get()
    device_type = (_stand_ins.get() or {}).get(device_type, device_type)
    return mode == "always" or (mode == "measured" and device_type in devices)


def use_kernels(trace: Trace, *, is_fused: bool) -> list[Trace]:
    """The program with kernels: the trace after each pass that changed it.

    `is_fused`: a fusing executor takes the rest.

    Programs without tensors on a device that kernels are wanted on are left alone, without importing Triton.
    """
    devices = {var.value.device.type for var in trace.inputs if var.is_tensor}
    wanted = {"cuda"} | {device for entry in _kernels for device in entry.devices}
    if not any(is_wanted_on(device, sorted(wanted)) for device in devices):
        return []
    load_library()
    if importlib.util.find_spec("triton") is None:
        return []
    stages: list[Trace] = importlib.import_module("thunder.kernels.passes").run_kernel_passes(trace, is_fused=is_fused)
    return stages
