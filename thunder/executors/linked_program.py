"""A lowered program put together from compiled blocks, and made callable.

Input: a lowered program, the regions of its blocks, executors.  Output: the program's traces and its `run`.

The backward program depends on which outputs the user differentiates.  The likely set is compiled together with the
forward program, any other when it is first met.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from thunder.executors.claim import fusible_regions
from thunder.executors.cuda_graphs import GraphedFunction, GraphPolicy
from thunder.executors.distribution import ProgramDistribution
from thunder.executors.executor import Executor
from thunder.executors.in_place import write_in_place
from thunder.executors.runtime import TrainingProgram, make_inference_run, make_training_run
from thunder.kernels.compile_ahead import compile_ahead
from thunder.lower import (
    BlockRegions,
    ForwardProgram,
    Lowered,
    Mask,
    assemble_backward,
    assemble_forward,
    make_regions,
    split_joint,
)
from thunder.trace import Region, Trace
from thunder.transforms import delete_dead_values, drop_absent_inputs, eliminate_dead_code

aten = torch.ops.aten


class ProgramTraces(NamedTuple):
    """The traces of a whole program at one stage."""

    forward: Trace
    backward: Trace | None


def split_blocks(lowered: Lowered, joints: dict[int, Trace]) -> dict[int, BlockRegions]:
    """Regions for the forward and backward traces of each block, by `id(block)`."""
    return {id(block): make_regions(split_joint(block, joints[id(block)]), _specialised) for block in lowered.blocks}


def _specialised(trace: Trace, absent: frozenset[int]) -> Trace:
    return eliminate_dead_code(drop_absent_inputs(trace, absent))


def program_traces(lowered: Lowered, blocks: dict[int, BlockRegions], name: str, made_by: str) -> ProgramTraces:
    """The program as it is, with a line that says what made it."""
    forward = assemble_forward(lowered, blocks, name)
    backward = None
    if lowered.trainable:
        backward = _with_history(assemble_backward(lowered, blocks, forward, _likely_gradients(lowered)), made_by)
    return ProgramTraces(_with_history(forward.trace, made_by), backward)


def _with_history(trace: Trace, made_by: str) -> Trace:
    return trace.replace(history=(*trace.history, f"made by {made_by}, {len(trace.regions())} regions"))


def _likely_gradients(lowered: Lowered) -> Mask:
    """The outputs that will be differentiated: the losses where there are some, else all."""
    is_loss = tuple(var.value.dim() == 0 for var in lowered.differentiable)
    return is_loss if any(is_loss) else tuple(True for _ in is_loss)


class LinkedProgram:
    """A program whose regions are compiled as they are needed."""

    def __init__(
        self,
        lowered: Lowered,
        blocks: dict[int, BlockRegions],
        executors: Sequence[Executor],
        name: str,
        graphs: GraphPolicy | None,
        notes: list[str],
        distribution: ProgramDistribution | None = None,
    ) -> None:
        self._lowered = lowered
        self._distribution = distribution
        self._blocks = blocks
        self._executors = executors
        self._graphs = graphs
        self._notes = notes
        self.graphed: GraphedFunction | None = None
        self._forward: ForwardProgram = assemble_forward(lowered, blocks, name)
        self._lock = threading.Lock()
        self._compiled: set[int] = set()
        self._backward_traces: dict[Mask, Trace] = {}
        self._parts: dict[Mask, Any] = {}
        self._final_backward_traces: dict[tuple[Mask, Hashable], Trace] = {}
        self._backwards: dict[tuple[Mask, Hashable], Callable[[list[Any]], Any]] = {}

    def make_run(self, *, grad_enabled: bool) -> Callable[..., tuple[Any, ...]]:
        """Compiles the program and makes it callable."""
        lowered = self._lowered
        if not lowered.trainable and self._executors[0].name != "inductor":
            # Inductor compiles whole regions, which operations in place would cut into pieces.
            self._forward.trace = write_in_place(self._forward.trace)
        regions = self._forward.trace.regions()
        if lowered.trainable:
            regions = [*regions, *self._backward_trace(_likely_gradients(lowered)).regions()]
        self._compile(regions)
        program = replace(self._forward, trace=_with_history(self._forward.trace, "claims and fusion"))
        if self._distribution is not None:
            lowered, program = self._distribution.forward(lowered, program)
        trace = self._final_forward = delete_dead_values(program.trace)
        forward = self._watched(trace.callable(), trace)
        graphs = self._graphs
        positions = {id(var): position for position, var in enumerate(lowered.inputs)}
        changed = frozenset(positions[id(var)] for var, _ in lowered.changed)
        if not lowered.trainable:
            if graphs is not None:
                forward = graphs.inference(forward, trace, self._notes, changed=changed)
                self.graphed = forward if isinstance(forward, GraphedFunction) else None
            return make_inference_run(self._entering(forward), lowered, program.outputs)
        if graphs is not None:
            count = len(program.outputs)
            forward = graphs.forward(forward, trace, self._notes, output_count=count, changed=changed)
            self.graphed = forward if isinstance(forward, GraphedFunction) else None
        self.backward_for(_likely_gradients(lowered))
        training = TrainingProgram(lowered, program, forward, self.backward_for, self._distribution)
        return make_training_run(training, lowered, program.outputs, grad_enabled=grad_enabled)

    def _watched(self, function: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
        return function if self._distribution is None else self._distribution.watched(function, trace)

    def _entering(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        if self._distribution is None:
            return forward
        enter = self._distribution.enter
        return lambda *inputs: forward(*enter(inputs))

    def traces(self) -> ProgramTraces:
        """The program that runs."""
        backward = self._final_backward_traces.get((_likely_gradients(self._lowered), self._variant()))
        return ProgramTraces(self._final_forward, backward)

    def _variant(self) -> Hashable:
        return None if self._distribution is None else self._distribution.backward_variant()

    def backward_for(self, present: Mask) -> Callable[[list[Any]], Any]:
        """The backward function for the outputs whose gradients exist."""
        variant = self._variant()
        function = self._backwards.get((present, variant))
        if function is None:
            with self._lock:
                trace = self._backward_trace(present)
                self._compile(trace.regions())
                trace = _with_history(trace, "claims and fusion")
                if self._distribution is not None:
                    trace = self._distribution.backward(trace, variant)
                trace = delete_dead_values(trace, inputs=True)
                self._final_backward_traces[present, variant] = trace
                function = self._watched(trace.callable(boxed=True), trace)
                if present in self._parts:
                    function = self._with_later_part(function, present)
                if self._graphs is not None:
                    function = self._graphs.backward(function, trace, self._notes, after=self.graphed)
                self._backwards[present, variant] = function
        return function

    def _backward_trace(self, present: Mask) -> Trace:
        trace = self._backward_traces.get(present)
        if trace is None:
            trace = assemble_backward(self._lowered, self._blocks, self._forward, present)
            parts = None if self._distribution is None else self._distribution.put_off(self._lowered, trace)
            if parts is not None:
                self._parts[present] = parts
                trace = parts.first
            self._backward_traces[present] = trace
        return trace

    def _with_later_part(self, first: Callable[[list[Any]], Any], present: Mask) -> Callable[[list[Any]], Any]:
        """The backward function whose second part the distribution calls when it wants to."""
        parts = self._parts[present]
        self._compile(parts.later.regions())
        later = delete_dead_values(parts.later, inputs=True).callable(boxed=True)
        assert self._distribution is not None
        return self._distribution.joined(first, later, parts, len(self._lowered.trainable))

    def _compile(self, regions: Sequence[Region]) -> None:
        """Has the regions that are new compiled by the executors that claim their operations."""
        new = [region for region in regions if id(region) not in self._compiled]
        self._compiled.update(map(id, new))
        compile_ahead(op for region in new for op in region.trace.ops)
        wanted: dict[Executor, list[Region]] = {}
        for region in new:
            if region.trace.ops:
                for executor, claimed in fusible_regions(region, self._executors).items():
                    wanted.setdefault(executor, []).extend(claimed)
                    self._compiled.update(map(id, claimed))
        for executor, claimed in wanted.items():
            executor.fuse(claimed)
        for region in new:
            if region.implementation is None:
                region.trace = delete_dead_values(region.trace, inputs=True)
                region.boxed = True
                region.implementation = _for_any_layout(region.trace).callable(boxed=True)


def _for_any_layout(trace: Trace) -> Trace:
    """Views become `reshape`, which is the same wherever a view is possible.

    Some of PyTorch's fake kernels say that a result is contiguous where the real kernel lays it out like an argument
    (`softplus_backward`, `batch_norm`): the view that was recorded behind it would be an error.
    """
    ops = [op.with_target(aten.reshape.default) if op.target is aten.view.default else op for op in trace.ops]
    return trace.replace(ops=ops)
