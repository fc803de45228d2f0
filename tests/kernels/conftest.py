"""Without a GPU, Triton kernels run in Triton's interpreter, which has to be chosen before Triton is imported."""

from __future__ import annotations

import os
import sys

import pytest
import torch

if not torch.cuda.is_available() and "triton" not in sys.modules:
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    """What needs the interpreter cannot run in a process that has imported Triton without it."""
    import triton

    if not torch.cuda.is_available() and not triton.knobs.runtime.interpret:
        for item in items:
            if "kernels" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="Triton was imported without TRITON_INTERPRET=1"))


def _give_scalars_an_index() -> None:
    """Triton's interpreter converts arrays of one element to int, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


_give_scalars_an_index()
