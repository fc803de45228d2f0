"""What compiles a program's subject: thunder, plain Python, and compilers that are wrong on purpose.

The wrong ones show that the comparison notices: a run against each must find a difference within few programs.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

import thunder
from thunder.errors import SharpEdgeWarning, ThunderError

REFUSALS: tuple[type[BaseException], ...] = (ThunderError,)
"""Errors with which thunder says that it cannot compile something."""


EXPECTED = re.compile(
    "has another answer at every call|under functools.lru_cache, raises|reaches outside of the program|"
    "context variable|is changed|have become equal|a hook is registered that stays|whichever comes first"
)
"""Calls that rightly run in plain Python."""


def with_thunder(subject: Callable[..., Any]) -> Callable[..., Any]:
    """The subject compiled, its tensor operations run by PyTorch as they stand.

    A call that does not raise must not have run in plain Python because acquisition failed.
    """
    compiled = thunder.jit(subject, executors=["eager"])

    def call(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = compiled(*args, **kwargs)
        for warning in caught:
            if issubclass(warning.category, SharpEdgeWarning) and not EXPECTED.search(str(warning.message)):
                raise RanInPlainPython(str(warning.message))
        return result

    return call


class RanInPlainPython(AssertionError):
    """The compiled subject fell back although nothing was wrong with the call."""


def in_plain_python(subject: Callable[..., Any]) -> Callable[..., Any]:
    """The subject itself: the two worlds must agree."""
    return subject


def keeping_the_first_result(subject: Callable[..., Any]) -> Callable[..., Any]:
    """Wrong: no guards at all."""
    kept: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(subject(*args, **kwargs))
        return kept[0]

    return call


def guarding_arguments_only(subject: Callable[..., Any]) -> Callable[..., Any]:
    """Wrong: remembers results by the text of the arguments and knows no other state."""
    kept: dict[str, Any] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, kwargs))
        if key not in kept:
            kept[key] = subject(*args, **kwargs)
        return kept[key]

    return call


def without_identity(subject: Callable[..., Any]) -> Callable[..., Any]:
    """Wrong: what is returned equals what is stored but is another object."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = subject(*args, **kwargs)
        try:
            return copy.deepcopy(result)
        except (RuntimeError, TypeError):  # non-leaf tensors, modules
            return result

    return call


def on_copied_arguments(subject: Callable[..., Any]) -> Callable[..., Any]:
    """Wrong: changes of arguments are lost."""

    def call(*args: Any, **kwargs: Any) -> Any:
        copied = [argument.clone() if isinstance(argument, torch.Tensor) else copy.copy(argument) for argument in args]
        return subject(*copied, **kwargs)

    return call


WRONG: tuple[Callable[..., Any], ...] = (
    keeping_the_first_result, guarding_arguments_only, without_identity, on_copied_arguments,
)  # fmt: skip
