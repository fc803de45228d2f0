"""From an acquired computation to a callable.

Input: a torch-level trace, executors in order of preference, transforms.  Output: a `CompiledComputation` whose
`run(*inputs)` behaves exactly as executing the torch-level trace eagerly would.

The way of a program: user transforms on the torch level; lowering, block by block; the passes of `BLOCK_PASSES` on
each distinct block; user transforms on the ATen level; splitting into forward and backward; claims and fusion; and
one program that calls the compiled blocks.  A program that cannot be lowered, and one that is too small to gain from
it, runs as the torch-level trace stands.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from thunder.errors import OptionError, ThunderError
from thunder.executors.claim import claim_torch_operations, fusible_regions
from thunder.executors.executor import Executor
from thunder.executors.gain import WORTHWHILE_SECONDS, estimate_gain
from thunder.executors.runtime import TrainingProgram, make_inference_run, make_training_run
from thunder.executors.torch_program import run_torch_program
from thunder.lower import (
    Assembled,
    BlockRegions,
    Lowered,
    NotLowerable,
    assemble,
    lower_program,
    make_regions,
    split_joint,
)
from thunder.lower.state import ambient_state, current_state
from thunder.trace import Region, Trace, verify
from thunder.transforms import (
    apply_transforms,
    delete_dead_values,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    fold_constants,
    level_of,
    rematerialise,
)

# Passes over the joint trace of each distinct block, in order; each can be switched off by name.
BLOCK_PASSES: tuple[Callable[..., Trace], ...] = (
    eliminate_dead_code,
    eliminate_common_subexpressions,
    fold_constants,
    rematerialise,
    eliminate_dead_code,
)


class CompiledComputation:
    """A computation that can be called, with every trace on the way to it.

    Attributes:
        run: called with the computation's inputs, returns the tuple of its outputs.
        notes: decisions that were taken, one sentence each.
        is_lowered: whether compiled ATen programs run, or the torch-level trace as it stands.
    """

    def __init__(
        self,
        run: Callable[..., tuple[Any, ...]],
        torch_stages: Sequence[Trace],
        program_stages: Callable[[], Sequence[Assembled]],
        notes: list[str],
        *,
        is_lowered: bool,
    ) -> None:
        self.run = run
        self.notes = notes
        self.is_lowered = is_lowered
        self._torch_stages = list(torch_stages)
        self._program_stages = program_stages

    @functools.cached_property
    def _programs(self) -> Sequence[Assembled]:
        return self._program_stages()

    @property
    def forward_traces(self) -> list[Trace]:
        """Each stage of the forward program, first to last."""
        return [*self._torch_stages, *(program.forward for program in self._programs if self.is_lowered)]

    @property
    def backward_traces(self) -> list[Trace]:
        """Each stage of the backward program; empty when nothing requires grad.

        A program that runs operation by operation is lowered here, when somebody looks.
        """
        return [program.backward for program in self._programs if program.backward is not None]


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
    with _collection_paused():
        return _compile(computation, executors, transforms, grad_enabled, worthwhile_seconds)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Within the block the garbage collector does not run: compilers make many objects, and drop few in cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compile(
    computation: Trace,
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]],
    grad_enabled: bool,
    worthwhile_seconds: float,
) -> CompiledComputation:
    verify(computation, "acquisition")
    stages = [computation, *apply_transforms(computation, transforms, "torch")]
    claimed = claim_torch_operations(stages[-1], executors)
    if claimed is not stages[-1]:
        stages.append(claimed)
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
        except ThunderError:
            raise
        except Exception as error:
            # A boundary: lowering runs the program's own code (custom functions) and PyTorch's on tensors without
            # data, which may raise anything where eager execution would not.
            notes.append(f"the program runs operation by operation: {type(error).__name__}: {error}")
    final = delete_dead_values(stages[-1])
    state = current_state()

    def lowered_for_inspection() -> list[Assembled]:
        try:
            with ambient_state(state):
                lowered = lower_program(stages[-1], grad_enabled=grad_enabled)
        except Exception:  # as above: what cannot be lowered has no backward trace
            return []
        program = assemble(lowered, _split(lowered, {id(block): block.joint for block in lowered.blocks}), final.name)
        return [_named(program, "lowering, for inspection: autograd runs the program")]

    return CompiledComputation(
        run_torch_program(final), [*stages, final], lowered_for_inspection, notes, is_lowered=False
    )


def _compile_lowered(
    stages: list[Trace],
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]],
    grad_enabled: bool,
    notes: list[str],
) -> CompiledComputation:
    lowered = lower_program(stages[-1], grad_enabled=grad_enabled, decompositions=_decompositions(executors))
    joints = {id(block): block.joint for block in lowered.blocks}
    programs: list[Callable[[], Assembled]] = []

    def snapshot(made_by: str) -> None:
        """Keeps what the program is now, to be put together when somebody looks at it."""
        current = dict(joints)
        programs.append(lambda: _named(assemble(lowered, _split(lowered, current), stages[-1].name), made_by))

    snapshot("lowering")
    for block_pass in BLOCK_PASSES:
        for block in lowered.blocks:
            options = {"transient": block.transient_inputs()} if block_pass is rematerialise else {}
            joints[id(block)] = block_pass(joints[id(block)], **options)
        snapshot(block_pass.__name__)
    blocks = _split(lowered, joints)
    for regions in blocks.values():
        for region in (regions.forward, regions.backward):
            if region is not None:
                region.trace = _transformed(region.trace, transforms)
    _fuse(blocks, executors)
    assembled = _named(assemble(lowered, blocks, stages[-1].name), "claims and fusion")
    assembled.forward = delete_dead_values(assembled.forward)
    if assembled.backward is not None:
        assembled.backward = delete_dead_values(assembled.backward, inputs=True)
    run = _link(lowered, assembled, grad_enabled)
    return CompiledComputation(
        run, stages, lambda: [*(stage() for stage in programs), assembled], notes, is_lowered=True
    )


def _named(program: Assembled, made_by: str) -> Assembled:
    """The program with a line that says what made it."""
    for trace in (program.forward, program.backward):
        if trace is not None:
            trace.history = (*trace.history, f"made by {made_by}, {len(trace.regions())} regions")
    return program


def _transformed(trace: Trace, transforms: Sequence[Callable[[Trace], Trace]]) -> Trace:
    """The trace after the user's ATen-level transforms, which keep what goes in and what comes out."""
    stages = apply_transforms(trace, transforms, "aten")
    if not stages:
        return trace
    result = stages[-1]
    if len(result.inputs) != len(trace.inputs) or len(result.output) != len(trace.output):
        raise OptionError(
            f"a transform changed what {trace.name} takes or returns",
            remedy="keep trace.inputs and the length of trace.output, or work at level 'torch'",
        )
    return result


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


def _link(lowered: Lowered, assembled: Assembled, grad_enabled: bool) -> Callable[..., tuple[Any, ...]]:
    forward = assembled.forward.callable()
    if assembled.backward is None:
        return make_inference_run(forward, lowered, assembled)
    backward = assembled.backward.callable(boxed=True)
    program = TrainingProgram(lowered, assembled, forward, backward)
    return make_training_run(program, lowered, assembled, grad_enabled=grad_enabled)
