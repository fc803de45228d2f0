"""Where models, inputs and compiled functions of a run are: on the CPU or on a CUDA device.

Input: the name of a device. Output: the settings under which rows run there, and moved models and inputs.

Invariant: rows are forked from a warm process only while that process has not initialised CUDA's driver, which does
not survive a fork. Where warming up does so (PyTorch's operator database asks for the device's capabilities as it is
imported), rows run in processes that are started afresh.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from thunder.errors import unknown_name

DEVICES = ("cpu", "cuda")
NOT_INITIALISED = 3
"""What CUDA's driver answers to any question before `cuInit`."""


def check_device(name: str) -> str:
    """The name, if rows can run there."""
    if name not in DEVICES:
        raise unknown_name("device", name, list(DEVICES))
    return name


def process_variables(device: str, jobs: int) -> dict[str, str]:
    """The environment of the processes that run rows; some of it must be there before PyTorch is imported."""
    variables = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    variables.update({"HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"})
    if device != "cpu":
        variables["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # `torch.cuda.is_available` leaves the driver alone
        variables["THUNDER_COMPILE_PROCESSES"] = str(max(1, (os.cpu_count() or 1) // jobs))
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # results do not depend on what ran before
    return {**os.environ, **variables}


def survives_fork(device: str) -> bool:
    """False when a process forked from this one could not use the device."""
    if device == "cpu":
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True  # no driver, so nothing of it is initialised; rows fail with PyTorch's own message
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == NOT_INITIALISED)


def prepare(device: str, memory: int) -> None:
    """In a row's process, before its first row: exact float32 products, the same algorithms at each call.

    `memory` limits what is allocated on a CUDA device, in bytes; 0 for no limit.
    """
    if device == "cpu":
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if memory:
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, memory / torch.cuda.get_device_properties(device).total_memory)
        )


def limits_address_space(device: str) -> bool:
    """Whether a limit of the address space says something: CUDA reserves far more than it uses."""
    return device == "cpu"


def creating_on(device: str) -> AbstractContextManager[Any]:
    """Within it, tensors that are made without naming a device are on this one."""
    return nullcontext() if device == "cpu" else torch.device(device)


def moved(value: Any, device: str) -> Any:
    """A value with its tensors on the device; containers are made anew."""
    if device == "cpu":
        return value
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    return value


def is_lost(error: BaseException) -> bool:
    """True for an error after which the device answers nothing more in this process."""
    return "CUDA error" in str(error) and "out of memory" not in str(error)


def seed(number: int) -> None:
    """Set the generators that programs draw from; `torch.manual_seed` itself would go through every device's."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)
