"""Flex attention within a program: one operation, which calls the user's functions for scores and masks when it runs.

Input: a call of `torch.nn.attention.flex_attention.flex_attention`.  Output: the call, recorded as a whole.  The
functions and the block mask are part of the operation, so that they must be the same objects at every call and
must not hold tensors that the program itself computes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from thunder.acquire.heap import EMPTY_CELL, content_of
from thunder.acquire.recorder import Recorder
from thunder.acquire.tracker import AcquisitionTracker
from thunder.errors import UnsupportedError


def flex_attention_lookaside(
    tracker: AcquisitionTracker, recorder: Recorder, function: Callable[..., Any]
) -> Callable[..., Any]:
    """The replacement of `flex_attention`."""

    def alike(
        query: Any, key: Any, value: Any, score_mod: Any = None, block_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        # What functions compute, on tensors that they hold, changes values alone.
        return function(query, key, value, None, None, *args, **kwargs)

    def replacement(interp: Any, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                continue
            for tensor in _tensors_within(value):
                if recorder.var_of(tensor) is not None:
                    raise UnsupportedError(
                        "a function or block mask of flex attention holds a tensor that the program computes",
                        recorder.location(),
                        "make block masks, and tensors that scores depend on, outside of the compiled function",
                    )
            source = tracker.known.get(id(value))
            if source is not None and not source.stable:
                tracker.prologue.identical(source, value)
        with torch._C.DisableTorchFunction():
            return recorder.call(function, args, kwargs, alike)

    return replacement


def _tensors_within(value: Any) -> Iterator[torch.Tensor]:
    """Tensors that a function closes over, and those of a block mask."""
    if isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            content = content_of(cell)
            if content is not EMPTY_CELL:
                yield from [content] if isinstance(content, torch.Tensor) else ()
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            if isinstance(item, torch.Tensor):
                yield item
            elif isinstance(item, types.FunctionType):
                yield from _tensors_within(item)
