"""Compare what a subject returned with what eager returned.

Input: two values of any shape: tensors, numbers, containers, model outputs, caches. Output: nothing, or
`WrongResult` that names the first place where they differ.

Tensors must have the same shape and dtype; floating-point values may differ by a tolerance that is relative to
the largest magnitude of the expected tensor, since a sum of terms is exact to no more than that. Objects with
attributes (a key-value cache, an output class) are compared attribute by attribute.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from thunder.coverage.recorder import WrongResult

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-7,
    torch.complex128: 1e-7,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 4e-2,
}
"""Largest allowed difference, relative to the largest magnitude of the expected tensor."""

ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, type, slice)
MAX_DEPTH = 12


def leaves(
    value: Any, path: str = "result", depth: int = 0, seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Any]]:
    """All (path, leaf) pairs of a value, in a fixed order; a leaf is a tensor or a plain Python value."""
    if isinstance(value, (torch.Tensor, *ATOMS)) or callable(value) or depth > MAX_DEPTH:
        yield path, value
        return
    if id(value) in seen:
        return
    seen = seen | {id(value)}
    if isinstance(value, Mapping):
        yield f"{path}.keys", tuple(map(str, value))
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key!r}]", depth + 1, seen)
    elif isinstance(value, list | tuple):
        yield f"{path}.length", len(value)
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]", depth + 1, seen)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name, None), f"{path}.{field.name}", depth + 1, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        for name, item in sorted(vars(value).items()):
            if not name.startswith("__"):
                yield from leaves(item, f"{path}.{name}", depth + 1, seen)
    else:
        yield path, value


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, in the order of `leaves`."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def compare(actual: Any, expected: Any, what: str = "result", looser: float = 1.0, strides: bool = False) -> None:
    """Raise `WrongResult` unless the values agree; `looser` widens the tolerances, for gradients."""
    actual_leaves = list(leaves(actual, what))
    expected_leaves = list(leaves(expected, what))
    for (actual_path, actual_leaf), (expected_path, expected_leaf) in zip(actual_leaves, expected_leaves):
        if actual_path != expected_path:
            raise WrongResult(f"structure differs: {actual_path} where eager has {expected_path}")
        compare_leaf(actual_leaf, expected_leaf, actual_path, looser, strides)
    if len(actual_leaves) != len(expected_leaves):
        raise WrongResult(f"structure differs: {len(actual_leaves)} leaves where eager has {len(expected_leaves)}")


def compare_leaf(actual: Any, expected: Any, path: str, looser: float, strides: bool) -> None:
    """Compare two tensors or two plain values."""
    if isinstance(expected, torch.Tensor):
        if not isinstance(actual, torch.Tensor):
            raise WrongResult(f"{path} is {type(actual).__name__}, eager has a tensor")
        compare_tensors(actual, expected, path, looser, strides)
    elif isinstance(expected, ATOMS) and not callable(expected):
        if type(actual) is not type(expected):
            raise WrongResult(f"{path} is {actual!r} of {type(actual).__name__}, eager has {expected!r}")
        if not plain_equal(actual, expected, looser):
            raise WrongResult(f"{path} is {actual!r}, eager has {expected!r}"[:300])
    elif type(actual) is not type(expected):
        raise WrongResult(f"{path} is of {type(actual).__name__}, eager has {type(expected).__name__}")


def plain_equal(actual: Any, expected: Any, looser: float) -> bool:
    """Equality of Python values; NaN equals NaN, and floats may differ as float32 tensors may."""
    if isinstance(expected, float | complex):
        if expected != expected:
            return bool(actual != actual)
        return bool(actual == expected) or abs(actual - expected) <= 1e-4 * looser * max(1.0, abs(expected))
    return bool(actual == expected)


def compare_tensors(actual: torch.Tensor, expected: torch.Tensor, path: str, looser: float, strides: bool) -> None:
    """Compare type, shape, dtype, layout, device, optionally strides, and values."""
    for attribute in ("shape", "dtype", "layout", "device", "is_quantized"):
        ours, theirs = getattr(actual, attribute), getattr(expected, attribute)
        if ours != theirs:
            raise WrongResult(f"{path}: {attribute} is {describe(ours)}, eager has {describe(theirs)}")
    if strides and expected.layout is torch.strided and significant_strides(actual) != significant_strides(expected):
        raise WrongResult(f"{path}: strides are {tuple(actual.stride())}, eager has {tuple(expected.stride())}")
    error = largest_difference(actual.detach(), expected.detach())
    allowed = TOLERANCES.get(expected.dtype, 0.0) * looser
    if not error <= allowed:
        raise WrongResult(f"{path}: values differ", error)


def describe(value: Any) -> str:
    """A shape as a list, anything else as it prints."""
    return str(list(value)) if isinstance(value, torch.Size) else str(value)


def significant_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Strides of the dimensions in which a step means something."""
    if tensor.numel() == 0:
        return ()
    return tuple(stride for size, stride in zip(tensor.shape, tensor.stride()) if size > 1)


def largest_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of two tensors of the same shape, relative to the largest magnitude (at least 1)."""
    if expected.numel() == 0:
        return 0.0
    if expected.is_quantized:
        actual, expected = actual.dequantize(), expected.dequantize()
    if expected.layout is not torch.strided:
        actual, expected = actual.to_dense(), expected.to_dense()
    if actual.is_meta:
        return 0.0
    if expected.dtype is torch.complex32:
        actual, expected = actual.to(torch.complex64), expected.to(torch.complex64)
    if torch.equal(actual, expected):
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        wide_actual, wide_expected = actual.to(torch.float64), expected.to(torch.float64)
        return max(1.0, float((wide_actual - wide_expected).abs().max()))
    wide = torch.complex128 if expected.is_complex() else torch.float64
    actual, expected = actual.to(wide), expected.to(wide)
    same = (actual == expected) | (torch.isnan(actual) & torch.isnan(expected))
    if bool(same.all()):
        return 0.0
    difference = torch.where(same, torch.zeros((), dtype=torch.float64), (actual - expected).abs())
    if not bool(torch.isfinite(difference).all()):
        return math.inf
    magnitudes = expected.abs()
    scale = float(torch.where(torch.isfinite(magnitudes), magnitudes, torch.zeros_like(magnitudes)).max())
    return float(difference.max()) / max(1.0, scale)
