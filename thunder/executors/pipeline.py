"""From an acquired computation to a callable.

Input: a torch-level trace, executors in order of preference, transforms.  Output: a `CompiledComputation` whose
`run(*inputs)` behaves exactly as executing the torch-level trace eagerly would.

The way of a program: user transforms on the torch level; lowering, block by block; the passes of `BLOCK_PASSES` on
each distinct block; user transforms on the ATen level; splitting into forward and backward; claims and fusion; and
one program that calls the compiled blocks.  A program that cannot be lowered, and one that is too small to gain from
it, runs as the torch-level trace stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from thunder import _torch_compat
from thunder.executors.claim import fusible_regions
from thunder.executors.executor import Executor
from thunder.executors.gain import WORTHWHILE_SECONDS, estimate_gain
from thunder.executors.runtime import TrainingProgram, make_inference_run, make_training_run
from thunder.executors.torch_program import run_torch_program
from thunder.lower import (
    Assembled,
    Block,
    BlockRegions,
    Lowered,
    NotLowerable,
    assemble,
    lower_program,
    make_regions,
    split_joint,
)
from thunder.trace import Region, Trace, verify
from thunder.transforms import apply_transforms, delete_dead_values, level_of

BLOCK_PASSES: tuple[Callable[[Trace], Trace], ...] = ()


class CompiledComputation:
    """A computation that can be called, with every trace on the way to it.

    Attributes:
        run: called with the computation's inputs, returns the tuple of its outputs.
        forward_traces: each stage, first to last.
        backward_traces: each stage of the backward program; empty when nothing requires grad.
        notes: decisions that were taken, one sentence each.
    """

    def __init__(
        self,
        run: Callable[..., tuple[Any, ...]],
        forward_traces: list[Trace],
        backward_traces: list[Trace],
        notes: list[str],
    ) -> None:
        self.run = run
        self.forward_traces = forward_traces
        self.backward_traces = backward_traces
        self.notes = notes


def compile_computation(
    computation: Trace,
    *,
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]] = (),
    grad_enabled: bool,
    worthwhile_seconds: float = WORTHWHILE_SECONDS,
) -> CompiledComputation:
    """Compiles a torch-level trace.

    Args:
        computation: what acquisition recorded; its inputs' values are fake tensors.
        executors: in order of preference; `eager` alone runs the trace as it stands.
        transforms: applied in order, at the level that each one asks for.
        grad_enabled: the grad mode under which `run` will be called.
        worthwhile_seconds: a program that fusion can make faster by less than this in a call is not compiled.
    """
    verify(computation, "acquisition")
    stages = [computation, *apply_transforms(computation, transforms, "torch")]
    notes: list[str] = []
    if all(executor.name == "eager" for executor in executors):
        pass
    elif estimate_gain(stages[-1], worthwhile_seconds) < worthwhile_seconds and not _has_level(transforms, "aten"):
        notes.append("the program runs operation by operation: it is too small to gain from compilation")
    else:
        try:
            return _compile_lowered(stages, executors, transforms, grad_enabled, notes)
        except NotLowerable as reason:
            notes.append(f"the program runs operation by operation: {reason}")
        except Exception as error:
            # A boundary: lowering runs the program's own code (custom functions) and PyTorch's on tensors without
            # data, which may raise anything where eager execution would not.
            notes.append(f"the program runs operation by operation: {type(error).__name__}: {error}")
    final = delete_dead_values(stages[-1])
    return CompiledComputation(run_torch_program(final), [*stages, final], [], notes)


def _compile_lowered(
    stages: list[Trace],
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]],
    grad_enabled: bool,
    notes: list[str],
) -> CompiledComputation:
    lowered = lower_program(stages[-1], grad_enabled=grad_enabled, decompositions=_decompositions(executors))
    forward_stages, backward_stages = list(stages), []
    joints = {id(block): block.joint for block in lowered.blocks}
    blocks = _split(lowered, joints)
    assembled = assemble(lowered, blocks, stages[-1].name)
    forward_stages.append(assembled.forward)
    if assembled.backward is not None:
        backward_stages.append(assembled.backward)
    _fuse(blocks, executors)
    run = _link(lowered, assembled)
    return CompiledComputation(run, forward_stages, backward_stages, notes)


def _has_level(transforms: Sequence[Callable[[Trace], Trace]], level: str) -> bool:
    return any(level_of(transform) == level for transform in transforms)


def _decompositions(executors: Sequence[Executor]) -> dict[Any, Callable[..., Any]]:
    """The operators that the first fusing executor wants to see in terms of others."""
    for executor in executors:
        if executor.fuses and executor.unavailable_reason() is None:
            return executor.decompositions()
    return {}


def _split(lowered: Lowered, joints: dict[int, Trace]) -> dict[int, BlockRegions]:
    return {id(block): make_regions(split_joint(block, joints[id(block)])) for block in lowered.blocks}


def _fuse(blocks: dict[int, BlockRegions], executors: Sequence[Executor]) -> None:
    """Has every region compiled by the executors that claim its operations."""
    wanted: dict[Executor, list[Region]] = {}
    for block in blocks.values():
        for region in (block.forward, block.backward):
            if region is not None and region.trace.ops:
                for executor, regions in fusible_regions(region, executors).items():
                    wanted.setdefault(executor, []).extend(regions)
    for executor, regions in wanted.items():
        executor.fuse(regions)
    for block in blocks.values():
        for region in (block.forward, block.backward):
            if region is not None and region.implementation is None:
                region.trace = delete_dead_values(region.trace, inputs=True)
                region.boxed = True


def _link(lowered: Lowered, assembled: Assembled) -> Callable[..., tuple[Any, ...]]:
    forward = delete_dead_values(assembled.forward).callable()
    if assembled.backward is None:
        return make_inference_run(forward, lowered, assembled)
    backward = delete_dead_values(assembled.backward, inputs=True).callable(boxed=True)
    return make_training_run(TrainingProgram(lowered, assembled, forward, backward), lowered, assembled)
