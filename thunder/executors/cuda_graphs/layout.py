"""How the results of a captured function lie in memory, and how they are handed to callers.

Input: the arguments and results of one run.  Output: a `ResultLayout`, which holds for every run on such arguments:
which results are arguments or views of them, which share memory with each other, which are no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thunder import _torch_compat


class LayoutError(Exception):
    """The results lie in memory in a way that a recording does not reproduce; the message says which."""


@dataclass(frozen=True)
class Geometry:
    """Shape, stride and first element of a tensor within its memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: torch.Tensor) -> Geometry:
        return Geometry(tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))


@dataclass
class _Memory:
    """Memory of one or several results."""

    dtype: torch.dtype
    device: torch.device
    elements: int
    geometry: Geometry | None  # that of all its results, or None when they differ


@dataclass(frozen=True)
class _Own:
    memory: int
    geometry: Geometry


@dataclass(frozen=True)
class _OfArgument:
    position: int
    geometry: Geometry | None  # with the offset from the argument's first element; None: the argument itself


@dataclass(frozen=True)
class _Constant:
    value: Any


class ResultLayout:
    """Where each result of a function is."""

    def __init__(self, results: Sequence[Any], arguments: Sequence[Any]) -> None:
        tensors = {id(a): n for n, a in enumerate(arguments) if isinstance(a, torch.Tensor)}
        storages: dict[int, int] = {}
        for position in tensors.values():
            storages.setdefault(_torch_compat.storage_key(arguments[position]), position)
        self._memories: list[_Memory] = []
        self._numbers: dict[int, int] = {}
        self._first: list[int] = []  # for each memory, a result that lies in it
        self.places: list[_Own | _OfArgument | _Constant] = []
        for number, result in enumerate(results):
            if not isinstance(result, torch.Tensor):
                self.places.append(_Constant(result))
            elif id(result) in tensors:
                self.places.append(_OfArgument(tensors[id(result)], None))
            elif (key := _torch_compat.storage_key(result)) in storages:
                self.places.append(_view_of(result, arguments[storages[key]], storages[key]))
            else:
                self.places.append(self._own(result, key, number))
        self._all_owned = all(self.owned)

    def _own(self, result: torch.Tensor, key: int, number: int) -> _Own:
        geometry = Geometry.of(result)
        index = self._numbers.get(key)
        if index is None:
            index = self._numbers[key] = len(self._memories)
            elements = result.untyped_storage().nbytes() // max(result.element_size(), 1)
            self._memories.append(_Memory(result.dtype, result.device, elements, geometry))
            self._first.append(number)
        elif self._memories[index].dtype != result.dtype:
            raise LayoutError("two results share memory and differ in dtype")
        elif self._memories[index].geometry != geometry:
            self._memories[index].geometry = None
        return _Own(index, geometry)

    @property
    def only_arguments(self) -> bool:
        """Whether nothing comes out of the function but its arguments and constants."""
        return not self._memories

    @property
    def owned(self) -> list[bool]:
        """For each result whether it has memory that is no argument's."""
        return [isinstance(place, _Own) for place in self.places]

    def new_homes(self) -> list[torch.Tensor]:
        """Memory for the results, one tensor for those that share theirs."""
        with torch.inference_mode(False):
            return [self._new_home(memory) for memory in self._memories]

    def _new_home(self, memory: _Memory) -> torch.Tensor:
        if memory.geometry is None:
            return torch.empty(memory.elements, dtype=memory.dtype, device=memory.device)
        shape, stride = memory.geometry.shape, memory.geometry.stride
        return torch.empty_strided(shape, stride, dtype=memory.dtype, device=memory.device)

    def store(self, results: Sequence[Any], homes: Sequence[torch.Tensor]) -> None:
        """Copies results to their homes."""
        sources = []
        for memory, number in zip(self._memories, self._first):
            result = results[number].detach()
            if memory.geometry is None:
                result = torch.as_strided(result, (memory.elements,), (1,), 0)
            sources.append(result)
        with torch.no_grad():
            torch._foreach_copy_(list(homes), sources)

    def tensors_in(self, homes: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """For each result its tensor in the homes; None for arguments and constants."""
        return [self._in_home(place, homes) if isinstance(place, _Own) else None for place in self.places]

    def _in_home(self, place: _Own, homes: Sequence[torch.Tensor]) -> torch.Tensor:
        home = homes[place.memory]
        if self._memories[place.memory].geometry is not None:
            return home
        return torch.as_strided(home, place.geometry.shape, place.geometry.stride, place.geometry.offset)

    def handed_out(self, own: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The results as a caller gets them: `own` where they have memory of their own, else from the inputs."""
        if self._all_owned:  # as in training, where there are hundreds
            return tuple(own)
        handed = []
        for place, tensor in zip(self.places, own):
            if isinstance(place, _Own):
                handed.append(tensor)
            elif isinstance(place, _Constant):
                handed.append(place.value)
            else:
                handed.append(_of_input(place, inputs[place.position]))
        return tuple(handed)


def _view_of(result: torch.Tensor, argument: torch.Tensor, position: int) -> _OfArgument:
    if result.dtype != argument.dtype:
        raise LayoutError("a result is a view of an input under another dtype")
    geometry = Geometry.of(result)
    offset = geometry.offset - int(argument.storage_offset())
    return _OfArgument(position, Geometry(geometry.shape, geometry.stride, offset))


def _of_input(place: _OfArgument, value: torch.Tensor) -> torch.Tensor:
    if place.geometry is None:
        return value
    shape, stride, offset = place.geometry.shape, place.geometry.stride, place.geometry.offset
    return torch.as_strided(value, shape, stride, value.storage_offset() + offset)
