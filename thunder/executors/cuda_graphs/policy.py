"""When programs are captured in CUDA graphs, and how: the link between compiled programs and recordings.

Input: a compiled function and its trace.  Output: the function itself, with a note when it cannot be captured, or a
`GraphedFunction` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from thunder.errors import unknown_name
from thunder.executors.cuda_graphs.backend import CudaGraphs, GraphBackend
from thunder.executors.cuda_graphs.capturable import why_not_capturable
from thunder.executors.cuda_graphs.graphed import GraphedFunction, Pools
from thunder.trace import Trace, Var
from thunder.trace.trace import regions_of_op

GRAPH_MODES = ("off", "inference", "all")

# Results of a training step up to this size (losses) are copied for the caller, so that the memory of the step is
# free for the next one although the caller still holds them.
CLONED_BYTES = 1 << 22

_cuda = CudaGraphs()


class GraphPolicy:
    """Which programs are captured.

    Args:
        training: programs with gradients as well, forward and backward.
        verbose: reasons are noted for programs that have nothing to do with the device, too.
        backend: what captures; CUDA graphs by default.
    """

    def __init__(self, *, training: bool, verbose: bool, backend: GraphBackend = _cuda) -> None:
        self.training = training
        self.verbose = verbose
        self.backend = backend

    def inference(
        self,
        function: Callable[..., Any],
        trace: Trace,
        notes: list[str],
        *,
        changed: frozenset[int] | None,
        by_shape: bool = False,
    ) -> Any:
        """The function of a program without gradients, captured when it can be."""
        device = self._device(trace, notes)
        if device is None:
            return function
        return GraphedFunction(
            function,
            tensors=_tensors(trace),
            others=_others(trace),
            changed=changed,
            pools=Pools(self.backend, device, shared=by_shape or not _is_mostly_results(trace)),
            report=notes.append,
            name="the program",
            by_shape=by_shape,
        )

    def forward(
        self,
        function: Callable[..., Any],
        trace: Trace,
        notes: list[str],
        *,
        output_count: int,
        changed: frozenset[int],
    ) -> Any:
        """The forward function of a program with gradients; its results are outputs, then saved values."""
        if not self.training:
            return function
        device = self._device(trace, notes)
        if device is None:
            return function
        outputs = [var.value for var in trace.output_vars()[:output_count]]
        small = frozenset(
            position
            for position, value in enumerate(outputs)
            if isinstance(value, torch.Tensor) and value.numel() * value.element_size() <= CLONED_BYTES
        )
        return GraphedFunction(
            function,
            tensors=_tensors(trace),
            others=_others(trace),
            changed=changed,
            pools=Pools(self.backend, device, shared=False),
            report=notes.append,
            name="the forward program",
            cloned=small,
            copies_when_busy=False,
        )

    def backward(
        self, function: Callable[..., Any], trace: Trace, notes: list[str], *, after: GraphedFunction | None
    ) -> Any:
        """The backward function of a program with gradients, whose forward function is `after`; it takes one list."""
        if not self.training:
            return function
        device = self._device(trace, notes)
        if device is None:
            return function
        return GraphedFunction(
            function,
            tensors=_tensors(trace),
            others=_others(trace),
            changed=frozenset(),
            pools=Pools(self.backend, device, shared=False),
            report=notes.append,
            name="the backward program",
            copies_when_busy=False,
            boxed=True,
            after=after,
        )

    def concerns(self, trace: Trace) -> bool:
        """Whether the program computes on devices whose work is captured."""
        return any(
            isinstance(var.value, torch.Tensor) and var.value.device.type == self.backend.device_type
            for var in trace.variables()
        )

    def _device(self, trace: Trace, notes: list[str]) -> torch.device | None:
        """The device to capture on, or None, with a note that says why not."""
        devices = {
            var.value.device
            for var in trace.variables()
            if isinstance(var.value, torch.Tensor) and var.value.device.type == self.backend.device_type
        }
        if not devices and not self.verbose:
            return None
        reason = why_not_capturable(trace, self.backend.device_type)
        if reason is not None:
            notes.append(f"{trace.name} runs without CUDA graphs: {reason}")
            return None
        return devices.pop()


def _is_mostly_results(trace: Trace) -> bool:
    """Whether the results are at least as large as the largest value on the way to them, as logits are.

    In a pool of their own they need not be copied, and the program takes less memory than with copies.
    """
    given = {id(var) for var in trace.inputs}
    results = {id(var): var for var in trace.output_vars() if id(var) not in given}
    largest = max((_bytes_of(var) for var in _computed(trace) if id(var) not in results), default=0)
    return bool(results) and sum(map(_bytes_of, results.values())) >= largest


def _computed(trace: Trace) -> Iterator[Var]:
    """The values that operations give, also within the functions of blocks; those within kernels never exist."""
    for op in trace.ops:
        yield from op.outputs()
        for region in regions_of_op(op):
            if region.executor == "eager":
                returned = {id(var) for var in region.trace.output_vars()}
                yield from (var for var in _computed(region.trace) if id(var) not in returned)


def _bytes_of(var: Var) -> int:
    tensor = var.value
    return int(tensor.numel() * tensor.element_size()) if isinstance(tensor, torch.Tensor) else 0


def _tensors(trace: Trace) -> list[int]:
    return [position for position, var in enumerate(trace.inputs) if _is_tensor(var)]


def _others(trace: Trace) -> list[int]:
    return [position for position, var in enumerate(trace.inputs) if not _is_tensor(var)]


def _is_tensor(var: Var) -> bool:
    return isinstance(var.value, torch.Tensor)


def graph_policy(mode: str | GraphPolicy) -> GraphPolicy | None:
    """The policy of a mode: "off", "inference" (where it can be done, silently elsewhere) or "all" (training too)."""
    if isinstance(mode, GraphPolicy):
        return mode
    if mode not in GRAPH_MODES:
        raise unknown_name("value of cuda_graphs:", mode, list(GRAPH_MODES))
    if mode == "off":
        return None
    return GraphPolicy(training=mode == "all", verbose=mode == "all")
