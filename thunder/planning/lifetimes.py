"""How many bytes a sequence of operations holds at a time.

Input: operations of an executed trace, regions included; what stays.  Output: bytes.  A view counts as the value whose
memory it shares; a value lives from the operation that makes it to the last that reads it, or stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from thunder.executors.triton_fusion import FusedKernel
from thunder.lower.operators import is_view, tensor_bytes
from thunder.planning.operations import cost_of, is_free_reshape
from thunder.trace import Op, Region, Var


@dataclass
class _Event:
    """An operation in terms of pieces of memory, which are numbers."""

    reads: set[int]
    makes: list[int]
    workspace: int


@dataclass
class Lifetimes:
    """The memory of `ops`, in order."""

    ops: Sequence[Op]
    _sizes: dict[int, int] = field(default_factory=dict)
    _piece_of: dict[int, int] = field(default_factory=dict)
    _events: list[_Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._flatten(self.ops)

    def bytes_of(self, variables: Iterable[Var]) -> int:
        """Of the memory that these lie in, shared memory once."""
        return sum(self._sizes[piece] for piece in self._pieces(variables))

    def peak(self, *, staying: Iterable[Var], entering: Iterable[Var] = ()) -> int:
        """The most bytes at a time: of what the operations make, and of what enters until its last use."""
        kept = self._pieces(staying)
        entered = self._pieces(entering)
        last = {piece: number for number, event in enumerate(self._events) for piece in [*event.makes, *event.reads]}
        alive = {piece for piece in entered if piece in last}
        now = most = sum(self._sizes[piece] for piece in alive)
        for number, event in enumerate(self._events):
            alive.update(event.makes)
            now += sum(self._sizes[piece] for piece in event.makes)
            most = max(most, now + event.workspace)
            for piece in {*event.makes, *event.reads}:
                if piece in alive and piece not in kept and last[piece] == number:
                    alive.discard(piece)
                    now -= self._sizes[piece]
        return most

    def _pieces(self, variables: Iterable[Var]) -> set[int]:
        return {self._piece(var) for var in variables}

    def _piece(self, var: Var) -> int:
        """The memory of a value; one that was there before has its own."""
        piece = self._piece_of.get(id(var))
        return self._new(var) if piece is None else piece

    def _new(self, var: Var) -> int:
        piece = self._piece_of[id(var)] = len(self._sizes)
        self._sizes[piece] = tensor_bytes(var.value)
        return piece

    def _flatten(self, ops: Iterable[Op]) -> None:
        for op in ops:
            target = op.target
            if isinstance(target, Region) and not isinstance(target.implementation, FusedKernel):
                self._enter(op, target)
                continue
            reads = {self._piece(var) for var in op.inputs()}
            outputs = list(op.outputs())
            if not outputs:
                continue
            sources = list(op.inputs())
            if sources and (is_view(op) or is_free_reshape(op)):
                for var in outputs:
                    self._piece_of[id(var)] = self._piece(sources[0])
                self._events.append(_Event(reads, [], 0))
            else:
                self._events.append(_Event(reads, [self._new(var) for var in outputs], cost_of(op).workspace))

    def _enter(self, op: Op, region: Region) -> None:
        """The operations of a region, whose inputs and outputs are those of the call."""
        for inner, outer in zip(region.trace.inputs, op.args):
            if isinstance(outer, Var):
                self._piece_of[id(inner)] = self._piece(outer)
        self._flatten(region.trace.ops)
        for inner, outer in zip(region.trace.output_vars(), op.outputs()):
            self._piece_of[id(outer)] = self._piece(inner)
