"""Where Triton kernels run: on the GPU, or in Triton's interpreter, chosen by `TRITON_INTERPRET=1`.

The choice holds for a process, and executors look at it too: the tests of kernels therefore run in a process of their
own (`make test-kernels`).  Without it, tests that need Triton are skipped.
"""

from __future__ import annotations

import pytest
import torch
import triton
from triton.runtime import interpreter

_runs_triton = torch.cuda.is_available() or triton.knobs.runtime.interpret


def pytest_collection_modifyitems(items):
    if not _runs_triton:
        for item in items:
            if item.get_closest_marker("triton") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a GPU or TRITON_INTERPRET=1: `make test-kernels`"))


def _give_scalars_an_index() -> None:
    """Triton's interpreter converts arrays of one element to int, which NumPy 2.4 refuses."""
    original = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


if triton.knobs.runtime.interpret:
    _give_scalars_an_index()
