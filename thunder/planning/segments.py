"""A step cut where its layers are: what comes before them, one of them, what comes after.

Input: a `TracedStep`.  Output: `Segments`, with the kernels and the memory of each, forward and backward.  The layers
of a model are equal calls of one region; a step without such calls is one segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thunder.executors.triton_fusion import FusedKernel
from thunder.planning.kernel_time import KernelShape
from thunder.planning.lifetimes import Lifetimes
from thunder.planning.operations import cost_of
from thunder.planning.traced_step import TracedStep
from thunder.trace import Op, Region


@dataclass(frozen=True, eq=False)
class Pass:
    """One direction of a segment; equal only to itself, so that its time can be remembered.

    Attributes:
        kernels: in order.
        peak: the most bytes at a time of what it makes; backward, above what was saved for it.
    """

    kernels: tuple[KernelShape, ...] = ()
    peak: int = 0


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a step.

    Attributes:
        forward, backward: see `Pass`.
        saved: bytes made in forward and kept for backward.
        results: bytes made in forward that the caller keeps to the end of the step, and that are not among `saved`.
        output: bytes of what it hands to the next segment.
        parameters: elements of the parameters that it uses.
    """

    forward: Pass = Pass()
    backward: Pass = Pass()
    saved: int = 0
    results: int = 0
    output: int = 0
    parameters: int = 0


@dataclass(frozen=True, eq=False)
class Segments:
    """A step: `head`, then `layers` times `layer`, then `tail`.

    Attributes:
        parameters: elements of all parameters, those that are used twice once.
    """

    head: Segment
    layer: Segment
    tail: Segment
    layers: int
    parameters: int

    def in_order(self) -> list[Segment]:
        """Each call."""
        return [self.head, *[self.layer] * self.layers, self.tail]


def cut(step: TracedStep, layers: int | None = None) -> Segments:
    """The segments of a step; `layers`: how many there are, where a few have been traced for all."""
    forward = _calls(step.forward.ops)
    backward = _calls(step.backward.ops if step.backward is not None else ())
    starts = _layer_calls(forward)
    back = _layer_calls(backward)
    parameters = sum(var.value.numel() for var in step.parameters)
    if len(starts) < 2 or (backward and len(back) != len(starts)):
        return Segments(Segment(), Segment(), _segment(step, forward, forward, backward), 0, parameters)
    # One of the middle: from its call to the next.  Backward, what stands after a call belongs to it.
    layer = forward[starts[-2] : starts[-1]]
    layer_back = backward[back[-2] : back[-1]] if back else []
    of_head = _segment(step, forward, forward[: starts[0]], backward[back[-1] + 1 :] if back else [])
    of_layer = _segment(step, forward, layer, layer_back)
    of_tail = _segment(step, forward, forward[starts[-1] + 1 :], backward[: back[0]] if back else [])
    count = len(starts) if layers is None else layers
    return Segments(of_head, of_layer, of_tail, count, parameters + (count - len(starts)) * of_layer.parameters)


def _calls(ops: Iterable[Op]) -> list[Op]:
    """Without `del`, which has no result."""
    return [op for op in ops if next(op.outputs(), None) is not None]


def _layer_calls(ops: Sequence[Op]) -> list[int]:
    """Positions of the calls of the block that is called most often, if any is called twice."""
    calls = Counter(id(op.target) for op in ops if _is_block(op))
    if not calls:
        return []
    block, times = calls.most_common(1)[0]
    return [number for number, op in enumerate(ops) if id(op.target) == block] if times > 1 else []


def _is_block(op: Op) -> bool:
    return isinstance(op.target, Region) and not isinstance(op.target.implementation, FusedKernel)


def _segment(step: TracedStep, program: Sequence[Op], forward: Sequence[Op], backward: Sequence[Op]) -> Segment:
    """Kernels and memory of some calls of the program, and of those that are their backward."""
    made = {id(var): var for op in forward for var in op.outputs()}
    returned = step.forward.output_vars()
    taken = {id(var) for var in step.backward.inputs} if step.backward is not None else set()
    own = {id(op) for op in forward}
    position = max((number for number, op in enumerate(program) if id(op) in own), default=-1)
    later = {id(var) for op in program[position + 1 :] for var in op.inputs()}
    saved = [var for key, var in made.items() if key in taken]
    results = [var for var in returned[: step.result_count] if id(var) in made and id(var) not in taken]
    output = [var for key, var in made.items() if key in later]
    memory = Lifetimes(forward)
    parameters = {id(var): var for var in step.parameters}
    used = {id(var) for op in forward for var in op.inputs() if id(var) in parameters}
    back = Lifetimes(backward)
    outgoing = [var for op in backward for var in op.outputs()]
    return Segment(
        forward=Pass(_kernels(forward), memory.peak(staying=[*saved, *results, *output])),
        backward=Pass(_kernels(backward), back.peak(staying=outgoing, entering=saved) - back.bytes_of(saved)),
        saved=memory.bytes_of(saved),
        results=memory.bytes_of(results),
        output=memory.bytes_of(output),
        parameters=sum(parameters[key].value.numel() for key in used),
    )


def _kernels(ops: Iterable[Op]) -> tuple[KernelShape, ...]:
    return tuple(kernel for op in ops for kernel in cost_of(op).kernels)
