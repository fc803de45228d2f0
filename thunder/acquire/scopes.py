"""Module paths in a program whose model runs in plain Python while it is acquired.

The interpreter notes the path of each module that it calls; code of thunder's own, such as the steps of decoding, it
does not run instruction by instruction, nor what such code calls.  Without paths lowering cannot tell that layers are
equal, and lowers each of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from thunder.acquire.acquire import acquisition


@contextlib.contextmanager
def module_scopes(model: torch.nn.Module) -> Iterator[None]:
    """Within the block, operations that this thread's acquisition writes down have the path of their module."""
    recorder = acquisition.recorder
    if recorder is None or acquisition.thread != threading.get_ident():
        yield
        return
    thread, first = acquisition.thread, recorder.scope
    outer: list[str] = []
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: torch.nn.Module, arguments: Any) -> None:
        if threading.get_ident() == thread:
            outer.append(recorder.scope)
            recorder.scope = names[id(module)]

    def leave(module: torch.nn.Module, arguments: Any, result: Any) -> None:
        if threading.get_ident() == thread:
            recorder.scope = outer.pop()

    handles = [module.register_forward_pre_hook(enter, prepend=True) for module in model.modules()]
    handles += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        recorder.scope = first
