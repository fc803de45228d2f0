"""State of the process that Python can ask for or change: settings of PyTorch, threads, log levels, context variables.

Input: a callable that is not interpreted and is about to be called.  Output: whether its answer is to be guarded (the
prologue asks again), or whether it changes something outside of the program, which a call must do in plain Python.
"""

from __future__ import annotations

import decimal
import functools
import gc
import logging
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch

_SETTINGS = {
    torch: ("get_num_threads", "get_num_interop_threads", "are_deterministic_algorithms_enabled",
            "is_deterministic_algorithms_warn_only_enabled", "get_deterministic_debug_mode",
            "get_float32_matmul_precision", "is_warn_always_enabled", "is_anomaly_enabled",
            "is_anomaly_check_nan_enabled", "get_default_device"),
    torch.backends.cuda: ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled",
                          "fp16_bf16_reduction_math_sdp_allowed", "preferred_linalg_library", "preferred_blas_library"),
    torch.backends.mha: ("get_fastpath_enabled",),
    torch.distributed: ("is_initialized", "get_rank", "get_world_size", "get_backend"),
    logging.Logger: ("isEnabledFor", "getEffectiveLevel", "hasHandlers"),
    sys: ("getrecursionlimit", "getswitchinterval", "get_int_max_str_digits"),
    threading: ("get_ident", "get_native_id", "current_thread", "main_thread"),
}  # fmt: skip
_CHANGES = {
    torch: ("use_deterministic_algorithms", "set_deterministic_debug_mode", "set_num_threads",
            "set_num_interop_threads", "set_float32_matmul_precision", "set_default_device",
            "set_default_tensor_type", "set_printoptions", "set_warn_always", "set_flush_denormal"),
    torch.backends.cuda: ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_math_sdp", "enable_cudnn_sdp",
                          "allow_fp16_bf16_reduction_math_sdp"),
    torch.backends.mha: ("set_fastpath_enabled",),
    # While a program is acquired the collector is off, so that asking is left to plain Python as well.
    gc: ("enable", "disable", "isenabled", "set_threshold", "get_threshold", "set_debug", "get_debug"),
    decimal: ("getcontext", "setcontext", "localcontext"),
    sys: ("setrecursionlimit", "setswitchinterval", "set_int_max_str_digits"),
}  # fmt: skip
_OF_OTHERS = frozenset({"__subclasses__", "initial_seed"})
"""Methods of classes and of torch's generators whose answer others decide."""
_READING_METHODS, _CHANGING_METHODS = ("__get__", "__getattr__"), ("__set__", "__setattr__")
_SHARED_BETWEEN_THREADS = frozenset({"threading", "queue"})
_OUTSIDE = frozenset(
    """tempfile shutil subprocess socket ssl http urllib multiprocessing asyncio concurrent selectors signal""".split()
)
_OF_FILES = frozenset(
    """exists is_file is_dir is_symlink is_mount open read_text read_bytes write_text write_bytes stat lstat iterdir
    glob rglob walk cwd home resolve absolute expanduser mkdir rmdir touch unlink rename replace samefile owner group
    chmod readlink symlink_to hardlink_to""".split()
)


def _named(table: dict[Any, tuple[str, ...]]) -> frozenset[Callable[..., Any]]:
    """The functions of a table that this version of PyTorch has."""
    found = (getattr(owner, name, None) for owner, names in table.items() for name in names)
    return frozenset(function for function in found if function is not None)


@functools.cache
def settings() -> frozenset[Callable[..., Any]]:
    """Functions whose answer changes only when somebody changes a setting."""
    return _named(_SETTINGS)


@functools.cache
def changes() -> frozenset[Callable[..., Any]]:
    """Functions that change a setting."""
    return _named(_CHANGES)


def decimal_rules() -> str:
    """How decimal numbers are computed now."""
    return repr(decimal.getcontext()).partition("flags=")[0]


def asks_for_setting(function: Any) -> bool:
    """Whether the answer of a call is a setting, which the prologue can ask for again."""
    if type(function) is types.BuiltinFunctionType and function.__name__ in _OF_OTHERS:
        return isinstance(function.__self__, (type, torch.Generator))
    return _is_one_of(function, settings(), _READING_METHODS)


def changes_setting(function: Any) -> bool:
    """Whether a call changes a setting."""
    return _is_one_of(function, changes(), _CHANGING_METHODS)


def _is_one_of(function: Any, functions: frozenset[Any], methods: Iterable[str]) -> bool:
    if type(function) is types.FunctionType:
        # The modules under torch.backends have attributes that are settings.
        backend = function.__name__ in methods and function.__module__.startswith("torch.backends")
        return backend or function in functions
    return type(function) is types.BuiltinFunctionType and function in functions


def reaches_outside(function: Any, owner_is_known: bool) -> bool:
    """Whether a function of the standard library deals with files, processes or other threads."""
    if type(function) is not types.FunctionType:
        return False
    module = function.__module__.partition(".")[0] if isinstance(function.__module__, str) else ""
    if module == "pathlib":
        return function.__name__ in _OF_FILES
    return module in _OUTSIDE or (module in _SHARED_BETWEEN_THREADS and owner_is_known)
