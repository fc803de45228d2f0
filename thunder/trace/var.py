"""Values of a trace.

A `Var` is a name together with an *example value*: for a tensor a fake tensor (shape, strides, dtype, device and
requires_grad without data), for anything else the object itself.  A Var is defined once in a trace.

`map_vars` and `iterate_vars` walk the argument structures of operations: tuples, lists, dicts, slices and named
tuples, nested at will; everything else is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "b8",
    torch.complex64: "c64",
    torch.complex128: "c128",
}


class Var:
    """A named value of a trace.

    Attributes:
        name: a Python identifier, unique in its trace.
        value: example value; a fake tensor for tensors.
    """

    __slots__ = ("name", "_value", "_make_value")

    def __init__(self, name: str, value: Any = None, make_value: Callable[[], Any] | None = None) -> None:
        """`make_value`, when given, makes the example value at its first use."""
        self.name = name
        self._value = value
        self._make_value = make_value

    @property
    def value(self) -> Any:
        if self._make_value is not None:
            self._value, self._make_value = self._make_value(), None
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value, self._make_value = value, None

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.value, torch.Tensor)

    def describe(self) -> str:
        """The type as printed in a trace's comments: `"cpu f32[64, 2048]"`."""
        return describe_value(self.value)

    def __repr__(self) -> str:
        return self.name


def describe_value(value: Any) -> str:
    """`"cpu f32[64, 2048]"` for a tensor (with ` grad` when it requires grad), the class name otherwise."""
    if isinstance(value, torch.Tensor):
        dtype = DTYPE_NAMES.get(value.dtype, str(value.dtype).removeprefix("torch."))
        shape = ", ".join(str(size) for size in value.shape)
        return f"{value.device} {dtype}[{shape}]"
    if isinstance(value, (int, float, bool, str, torch.SymInt)):
        return f"{type(value).__name__} {value}"
    return type(value).__name__


def map_vars(function: Callable[[Var], Any], structure: Any) -> Any:
    """`structure` with every Var replaced by `function(var)`; containers without Vars are rebuilt alike."""
    if isinstance(structure, Var):
        return function(structure)
    kind = type(structure)
    if kind is tuple or kind is list:
        return kind([map_vars(function, item) for item in structure])
    if kind is dict:
        return {key: map_vars(function, item) for key, item in structure.items()}
    if kind is slice:
        return slice(*(map_vars(function, part) for part in (structure.start, structure.stop, structure.step)))
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return kind(*(map_vars(function, item) for item in structure))
    return structure


def iterate_vars(structure: Any) -> Iterator[Var]:
    """Every Var in `structure`, left to right, repeated as often as it occurs."""
    found: list[Var] = []
    _collect_vars(structure, found)
    return iter(found)


def _collect_vars(structure: Any, found: list[Var]) -> None:
    kind = type(structure)
    if kind is Var:
        found.append(structure)
    elif kind is tuple or kind is list or isinstance(structure, (tuple, list)):
        for item in structure:
            if type(item) is Var:
                found.append(item)
            elif type(item) not in _LEAVES:
                _collect_vars(item, found)
    elif kind is dict:
        for item in structure.values():
            _collect_vars(item, found)
    elif kind is slice:
        _collect_vars((structure.start, structure.stop, structure.step), found)


_LEAVES = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})
