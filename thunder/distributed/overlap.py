"""Within blocks: collectives begin as soon as what they send exists, and are waited for when their result is needed.

Tensor parallelism puts collectives between the operations of a block, where autograd's order may be any.  Input: the
trace of a block.  Output: the same operations in an order in which those that a collective does not depend on, such as
gradients of weights, run between its beginning and its end.

`describe_collectives` says for any trace what stands there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from thunder.distributed.failures import is_collective
from thunder.lower.operators import is_random, tensor_bytes
from thunder.trace import Op, Region, Trace


def begin_collectives_early(trace: Trace) -> Trace:
    """Moves what a collective does not need to behind its beginning, and its end to where the result is needed."""
    if not any(map(is_collective, trace.ops)):
        return trace
    ops: list[Op] = []
    since: list[Op] = []  # operations behind the last collective
    for op in trace.ops:
        if not is_collective(op):
            since.append(op)
            continue
        # The order of random numbers stays.
        needed = since if any(map(is_random, since)) else _needed(since, op)
        kept = {id(member) for member in needed}
        ops += [*needed, op, *(member for member in since if id(member) not in kept)]
        since = []
    return trace.replace(ops=_wait_late([*ops, *since]))


begin_collectives_early.level = "aten"  # type: ignore[attr-defined]


def _needed(ops: Sequence[Op], target: Op) -> list[Op]:
    """The operations, in order, whose results another one needs."""
    wanted = {id(var) for var in target.inputs()}
    found = []
    for op in reversed(ops):
        if any(id(var) in wanted for var in op.outputs()):
            found.append(op)
            wanted |= {id(var) for var in op.inputs()}
    return found[::-1]


def _wait_late(ops: Sequence[Op]) -> list[Op]:
    """The operations with each wait right before the first that takes its result."""
    moved: list[Op] = []
    waiting: dict[int, Op] = {}
    for op in ops:
        if is_wait(op):
            waiting[id(op.result)] = op
            continue
        for var in op.inputs():
            wait = waiting.pop(id(var), None)
            if wait is not None:
                moved.append(wait)
        moved.append(op)
    return [*moved, *waiting.values()]


def is_wait(op: Op) -> bool:
    """Whether the operation ends a collective."""
    return getattr(op.target, "namespace", None) == "_c10d_functional" and op.target._opname == "wait_tensor"


@dataclass
class Collective:
    """One collective of a program.

    Attributes:
        kind: PyTorch's name for it.
        nbytes: what this process sends.
        begins, ends: the regions where it begins and is waited for; `ends` is empty where the program does not wait.
        beside: what runs between the two: names of regions and operators, in order, without views and copies.
    """

    kind: str
    nbytes: int
    begins: str
    ends: str = ""
    beside: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        place = f"in {self.begins}" if self.begins == self.ends else f"from {self.begins} to {self.ends or 'nowhere'}"
        return f"{self.kind} of {self.nbytes:,} bytes {place}, beside {', '.join(self.beside) or 'nothing'}"


_ARRANGING = frozenset(
    ("alias", "cat", "clone", "constant_pad_nd", "delete", "detach", "expand", "permute", "reshape", "select", "slice",
     "split", "squeeze", "stack", "t", "transpose", "unsqueeze", "view", "_to_copy", "_unsafe_view", "getitem")
)  # fmt: skip


def describe_collectives(trace: Trace) -> list[Collective]:
    """The collectives of a trace that is executed, in the order in which they begin, and what each overlaps with."""
    found: list[Collective] = []
    _follow(trace, {}, found, [])
    return found


def _follow(trace: Trace, known: dict[int, Collective], found: list[Collective], under_way: list[Collective]) -> None:
    """Goes through a trace and the regions that it calls; `known`: the collectives whose results are values of it."""
    for op in trace.ops:
        if isinstance(op.target, Region) and _communicates(op.target.trace):
            inner = op.target.trace
            within = {id(var): known[id(value)] for var, value in zip(inner.inputs, op.args) if id(value) in known}
            _follow(inner, within, found, under_way)
            results = op.result if isinstance(op.result, tuple) else (op.result,)
            known.update({id(out): within[id(var)] for var, out in zip(inner.output, results) if id(var) in within})
        elif is_collective(op):
            sent = sum(tensor_bytes(var.value) for var in op.inputs())
            collective = known[id(op.result)] = Collective(op.target._opname, sent, trace.name)
            found.append(collective)
            under_way.append(collective)
        elif is_wait(op):
            ended = known.get(id(op.args[0]))
            if ended is not None:
                ended.ends = trace.name
                under_way.remove(ended)
        elif op.name.partition(".")[0] not in _ARRANGING:
            for collective in under_way:
                collective.beside.append(op.name.partition(".")[0])


def _communicates(trace: Trace) -> bool:
    return any(
        is_collective(op) or is_wait(op) or (isinstance(op.target, Region) and _communicates(op.target.trace))
        for op in trace.ops
    )
