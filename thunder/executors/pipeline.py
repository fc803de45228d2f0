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
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from thunder import _torch_compat
from thunder.errors import OptionError, ThunderError
from thunder.executors.claim import claim_torch_operations
from thunder.executors.collection import collection_paused
from thunder.executors.cuda_graphs import GraphedFunction, GraphPolicy
from thunder.executors.distribution import ProgramDistribution
from thunder.executors.executor import Executor
from thunder.executors.gain import WORTHWHILE_SECONDS, estimate_gain
from thunder.executors.linked_program import LinkedProgram, ProgramTraces, program_traces, split_blocks
from thunder.executors.torch_program import run_torch_program
from thunder.kernels.placement import merged_inputs
from thunder.kernels.registry import use_kernels
from thunder.lower import BlockRegions, NotLowerable, lower_program
from thunder.lower.operators import draws_random_numbers
from thunder.lower.state import ambient_state, current_state
from thunder.trace import Trace, verify
from thunder.transforms import (
    apply_transforms,
    delete_dead_values,
    drop_empty_parts,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    fold_constants,
    level_of,
    rematerialise,
)

# Passes over the joint trace of each distinct block, in order; each can be switched off by name.
BLOCK_PASSES: tuple[Callable[..., Trace], ...] = (
    eliminate_dead_code,
    drop_empty_parts,
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
        graphed: what captures the program in CUDA graphs, or None.
    """

    def __init__(
        self,
        run: Callable[..., tuple[Any, ...]],
        torch_stages: Sequence[Trace],
        program_stages: Callable[[], Sequence[ProgramTraces]],
        notes: list[str],
        *,
        is_lowered: bool,
        graphed: GraphedFunction | None = None,
    ) -> None:
        self.run = run
        self.notes = notes
        self.is_lowered = is_lowered
        self.graphed = graphed
        self._torch_stages = list(torch_stages)
        self._program_stages = program_stages

    @property
    def merged_inputs(self) -> list[list[int]]:
        """Positions of inputs that the program wants to lie behind one another in memory, group by group."""
        return merged_inputs(self._torch_stages[-1])

    @functools.cached_property
    def runs_ahead(self) -> Callable[[], bool] | None:
        """Says at a call whether `run` will only replay a graph; None for programs that draw random numbers or are not
        captured.

        Replaying such a graph for a call that turns out to need another program does no harm.
        """
        graphed = self.graphed
        if graphed is None or not self.is_lowered:
            return None
        if any(draws_random_numbers(op) for op in self.forward_traces[-1].ops):
            return None
        return lambda: graphed.last is not None

    @functools.cached_property
    def _programs(self) -> Sequence[ProgramTraces]:
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
    graphs: GraphPolicy | None = None,
    distribution: ProgramDistribution | None = None,
) -> CompiledComputation:
    """Compiles a torch-level trace.

    Args:
        computation: what acquisition recorded; its inputs' values are fake tensors.
        executors: in order of preference; `eager` alone runs the trace as it stands.
        transforms: applied in order, at the level that each one asks for.
        grad_enabled: the grad mode under which `run` will be called.
        worthwhile_seconds: a program that fusion can make faster by less than this in a call is not compiled.
        graphs: what is captured in CUDA graphs when calls repeat.
        distribution: how the program is spread over processes; such a program is lowered whatever its size.
    """
    with collection_paused(), _random_state_kept():
        return _compile(computation, executors, transforms, grad_enabled, worthwhile_seconds, graphs, distribution)


def _random_state_kept() -> AbstractContextManager[None]:
    """Compilation runs the program on tensors without data: random numbers that this draws are given back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices=devices)


def _compile(
    computation: Trace,
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]],
    grad_enabled: bool,
    worthwhile_seconds: float,
    graphs: GraphPolicy | None,
    distribution: ProgramDistribution | None,
) -> CompiledComputation:
    verify(computation, "acquisition")
    stages = [computation, *apply_transforms(computation, transforms, "torch")]
    if executors[0].name != "eager":
        stages += use_kernels(stages[-1], is_fused=any(executor.fuses for executor in executors))
    claimed = claim_torch_operations(stages[-1], executors)
    if claimed is not stages[-1]:
        stages.append(claimed)
    notes: list[str] = []
    if executors[0].name == "eager" and (distribution is None or _has_symbols(stages[-1])):
        pass
    elif (
        distribution is None
        and not _must_be_lowered(stages[-1], grad_enabled, graphs)
        and _is_too_small(stages[-1], executors, transforms, worthwhile_seconds)
    ):
        notes.append("the program runs operation by operation: it is too small to gain from compilation")
    else:
        try:
            return _compile_lowered(stages, executors, transforms, grad_enabled, notes, graphs, distribution)
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

    def lowered_for_inspection() -> list[ProgramTraces]:
        try:
            with ambient_state(state):
                lowered = lower_program(stages[-1], grad_enabled=grad_enabled)
        except Exception:  # as above: what cannot be lowered has no backward trace
            return []
        blocks = split_blocks(lowered, {id(block): block.joint for block in lowered.blocks})
        return [program_traces(lowered, blocks, final.name, "lowering, for inspection: autograd runs the program")]

    run = run_torch_program(final)
    if distribution is not None:
        run = distribution.run_undivided(run, final)
    if graphs is not None:
        if not _needs_autograd(final, grad_enabled):
            run = graphs.inference(run, final, notes, changed=None, by_shape=_has_symbols(final))
        elif graphs.training:
            notes.append("the program runs without CUDA graphs: it runs under PyTorch's own autograd")
    return CompiledComputation(
        run, [*stages, final], lowered_for_inspection, notes, is_lowered=False, graphed=_graphed(run)
    )


def _graphed(run: Any) -> GraphedFunction | None:
    return run if isinstance(run, GraphedFunction) else None


def _needs_autograd(trace: Trace, grad_enabled: bool) -> bool:
    """Whether autograd may write down what the program does."""
    enables = any(op.target is _torch_compat.set_grad_enabled_statement() and op.args == (True,) for op in trace.ops)
    return (grad_enabled or enables) and any(
        isinstance(var.value, torch.Tensor) and var.value.requires_grad for var in trace.variables()
    )


def _has_symbols(trace: Trace) -> bool:
    """Whether sizes of the inputs may differ from call to call."""
    return any(
        not isinstance(var.value, torch.Tensor) or any(type(size) is not int for size in var.value.shape)
        for var in trace.inputs
    )


def _compile_lowered(
    stages: list[Trace],
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]],
    grad_enabled: bool,
    notes: list[str],
    graphs: GraphPolicy | None,
    distribution: ProgramDistribution | None,
) -> CompiledComputation:
    name = stages[-1].name
    lowered = lower_program(stages[-1], grad_enabled=grad_enabled, decompositions=_decompositions(executors))
    joints = {id(block): block.joint for block in lowered.blocks}
    programs: list[Callable[[], ProgramTraces]] = []

    def snapshot(made_by: str) -> None:
        """Keeps what the program is now, to be put together when somebody looks at it."""
        current = dict(joints)
        programs.append(lambda: program_traces(lowered, split_blocks(lowered, current), name, made_by))

    snapshot("lowering")
    for block_pass in BLOCK_PASSES:
        for block in lowered.blocks:
            options = {"transient": block.transient_inputs()} if block_pass is rematerialise else {}
            joints[id(block)] = block_pass(joints[id(block)], **options)
        snapshot(block_pass.__name__)
    blocks = split_blocks(lowered, joints)
    for regions in blocks.values():
        _transform(regions, transforms)
    program = LinkedProgram(lowered, blocks, executors, name, graphs, notes, distribution)
    run = program.make_run(grad_enabled=grad_enabled)
    return CompiledComputation(
        run,
        stages,
        lambda: [*(stage() for stage in programs), program.traces()],
        notes,
        is_lowered=True,
        graphed=program.graphed,
    )


def _transform(regions: BlockRegions, transforms: Sequence[Callable[[Trace], Trace]]) -> None:
    """Applies the user's ATen-level transforms, which keep what goes in and what comes out."""
    for region in (regions.forward, regions.backward):
        if region is None:
            continue
        before = region.trace
        for after in apply_transforms(before, transforms, "aten"):
            if len(after.inputs) != len(before.inputs) or len(after.output) != len(before.output):
                raise OptionError(
                    f"a transform changed what {before.name} takes or returns",
                    remedy="keep trace.inputs and the length of trace.output, or work at level 'torch'",
                )
            region.trace = after


def _must_be_lowered(trace: Trace, grad_enabled: bool, graphs: GraphPolicy | None) -> bool:
    """Whether the program is to be captured and has to be lowered for that: its backward part is a program then."""
    return graphs is not None and graphs.training and graphs.concerns(trace) and _needs_autograd(trace, grad_enabled)


def _is_too_small(
    trace: Trace,
    executors: Sequence[Executor],
    transforms: Sequence[Callable[[Trace], Trace]],
    worthwhile_seconds: float,
) -> bool:
    """Whether fusion is all that lowering is for here, and cannot gain what is worth its cost.

    What fusion gains is known for the CPU only; on other devices nothing is too small.
    """
    if any(isinstance(var.value, torch.Tensor) and var.value.device.type != "cpu" for var in trace.inputs):
        return False
    if not any(executor.fuses for executor in executors) or any(level_of(t) == "aten" for t in transforms):
        return False
    return estimate_gain(trace, worthwhile_seconds) < worthwhile_seconds


def _decompositions(executors: Sequence[Executor]) -> dict[Any, Callable[..., Any]]:
    """The operators that the first fusing executor wants to see in terms of others."""
    for executor in executors:
        if executor.fuses and executor.unavailable_reason() is None:
            return executor.decompositions()
    return {}
