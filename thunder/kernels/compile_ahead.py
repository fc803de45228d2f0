"""The library's kernels are compiled while the rest of a program is.

Input: operations of a program, with values without data.  Output: their kernels are on their way.  An operator's own
implementation is run on such tensors, where launches only ask for machine code: so what is compiled is what will run.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from thunder import _torch_compat
from thunder.kernels.fake_values import call_key
from thunder.trace import Op

_NAMESPACE = "thunder"

_requests: contextvars.ContextVar[bool] = contextvars.ContextVar("requests", default=False)


@contextlib.contextmanager
def _requests_only() -> Iterator[None]:
    token = _requests.set(True)
    try:
        yield
    finally:
        _requests.reset(token)


def is_request() -> bool:
    """Whether a launch is to begin to compile what it would run, and to run nothing; its arguments are fake then."""
    return _requests.get()


def compile_ahead(ops: Iterable[Op]) -> None:
    """Begins to compile the kernels of those operations that are the library's, on CUDA tensors."""
    seen: set[Any] = set()
    for op in ops:
        target = op.target
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != _NAMESPACE:
            continue
        key = call_key(op)
        fake = next((var.value for var in op.inputs() if _is_on_gpu(var.value)), None)
        if fake is None or key is None or key in seen:
            continue
        seen.add(key)
        implementation = _torch_compat.custom_op_function(target)
        valued = op.map_inputs(lambda var: var.value)
        # A boundary: an implementation may want to see values, or whatever; its kernels are then compiled when it runs.
        with contextlib.suppress(Exception), fake.fake_mode, torch.no_grad(), _requests_only():
            implementation(*valued.args, **valued.kwargs)


def _is_on_gpu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cuda" and _torch_compat.is_fake(value)
