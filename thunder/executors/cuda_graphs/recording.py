"""One captured call of a function: its graph, the memory that it reads, and the results that it hands out.

Input: a call's inputs, divided into *static* ones, which the graph reads and changes where they are, and *copied*
ones, which it reads from buffers.  Output: `replay(inputs)`, which gives what the function would give.

The results lie in memory that the next replay writes again.  Each call hands out new tensors over that memory, and
`is_free` tells whether all of those (and views of them) are gone: a recording is replayed only when it is free.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thunder import _torch_compat
from thunder.executors.cuda_graphs.backend import GraphBackend
from thunder.executors.cuda_graphs.layout import ResultLayout
from thunder.kernels.capture import own_capture

_address = torch.Tensor.data_ptr
_uses = _torch_compat.storage_use_count_function()


@dataclass(frozen=True)
class InputPlan:
    """How the inputs of a call reach the graph; all numbers are positions.

    Attributes:
        static: tensors whose memory the graph uses itself.
        copied: tensors that are copied into buffers before a replay.
        changed: tensors that the function changes in place.
        others: inputs that are no tensors; a graph holds for their values.
    """

    static: tuple[int, ...]
    copied: tuple[int, ...]
    changed: frozenset[int]
    others: tuple[int, ...]

    def new_buffers(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """A buffer for each copied input."""
        with torch.inference_mode(False):
            return [_buffer_like(inputs[position]) for position in self.copied]

    def arguments(self, inputs: Sequence[Any], buffers: Sequence[torch.Tensor]) -> list[Any]:
        """The inputs with buffers in the place of those that are copied."""
        arguments = list(inputs)
        for position, buffer in zip(self.copied, buffers):
            arguments[position] = buffer
        return arguments


def _buffer_like(tensor: torch.Tensor) -> torch.Tensor:
    buffer = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return buffer.requires_grad_(tensor.requires_grad)


def fill(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copies `source` to `target`, of equal shape and stride; expanded dimensions hold one element."""
    if 0 in target.stride():
        for dim, (size, stride) in enumerate(zip(target.shape, target.stride())):
            if stride == 0 and size > 1:
                target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    target.copy_(source, non_blocking=True)


class Recording:
    """A function captured for inputs at certain addresses.

    Args:
        function: takes the inputs, returns a tuple or list of results.
        inputs: those of the call for which it is captured.
        plan: how they reach the graph.
        buffers: of the plan.
        layout: of the function's results.
        results_outside: results are copied, within the graph, to memory outside of the pool: needed when other graphs
            use the pool as well.
        cloned: positions of results of which every call gets a copy of its own.
        sizes_vary: static inputs may have other sizes at another call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        plan: InputPlan,
        buffers: Sequence[torch.Tensor],
        layout: ResultLayout,
        *,
        backend: GraphBackend,
        device: torch.device,
        pool: Any,
        results_outside: bool,
        cloned: frozenset[int],
        sizes_vary: bool = False,
    ) -> None:
        self.plan = plan
        self._buffers = list(buffers)
        self._layout = layout
        self._backend = backend
        self._device = device
        self._get_static = _getter(plan.static)
        self._addresses = [inputs[position].data_ptr() for position in plan.static]
        self._sized = (*plan.copied, *plan.static) if sizes_vary else plan.copied
        self._shapes = [inputs[position].shape for position in self._sized]
        self._values = [inputs[position] for position in plan.others]
        self._written_back = [(p, b) for p, b in zip(plan.copied, buffers) if p in plan.changed]
        arguments = plan.arguments(inputs, buffers)
        homes = layout.new_homes() if results_outside else []

        def run() -> list[Any]:
            results = list(function(*arguments))
            if homes:
                layout.store(results, homes)
            return results

        with own_capture():
            self.graph, results = backend.capture(run, device, pool)
        held = layout.tensors_in(homes) if results_outside else results
        self._held = [tensor if own else None for tensor, own in zip(held, layout.owned)]
        self._cloned = cloned
        self._only_arguments = layout.only_arguments
        self._watched, self._uses = self._watch()

    def _watch(self) -> tuple[list[int], list[int]]:
        """The storages of the results that are handed out, and how many uses each has while nobody else has it."""
        storages = {}
        for position, tensor in enumerate(self._held):
            if tensor is not None and position not in self._cloned:
                storage = tensor.untyped_storage()
                storages[storage._cdata] = storage
        self._kept_alive = list(storages.values())
        return list(storages), list(map(_uses, storages))

    def fits(self, inputs: Sequence[Any]) -> bool:
        """Whether the graph is right for these inputs: static ones at its addresses, others of its sizes."""
        if list(map(_address, self._get_static(inputs))) != self._addresses:
            return False
        plan = self.plan
        if plan.others and [inputs[position] for position in plan.others] != self._values:
            return False
        return not self._sized or [inputs[position].shape for position in self._sized] == self._shapes

    def is_free(self) -> bool:
        """Whether nobody holds results of the last replay."""
        return list(map(_uses, self._watched)) == self._uses

    @property
    def is_closed(self) -> bool:
        """Whether it takes nothing in and gives nothing out but through static inputs."""
        return not self.plan.copied and self._only_arguments

    def replay(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Runs the graph for these inputs, which fit it; the recording is free."""
        self._backend.order_after_others(self._device)
        if self._buffers:
            with torch.no_grad():
                for position, buffer in zip(self.plan.copied, self._buffers):
                    fill(buffer, inputs[position])
        self.graph.replay()
        if self._written_back:
            with torch.no_grad():
                for position, buffer in self._written_back:
                    fill(inputs[position], buffer)
        if self._only_arguments:
            return self._layout.handed_out(self._held, inputs)
        cloned = self._cloned
        if cloned:
            own = [
                None if tensor is None else tensor.clone() if position in cloned else tensor.detach()
                for position, tensor in enumerate(self._held)
            ]
        else:
            own = [None if tensor is None else tensor.detach() for tensor in self._held]
        return self._layout.handed_out(own, inputs)


def _getter(positions: tuple[int, ...]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that picks these positions of a sequence."""
    if not positions:
        return lambda inputs: ()
    if len(positions) == 1:
        (position,) = positions
        return lambda inputs: (inputs[position],)
    return operator.itemgetter(*positions)
