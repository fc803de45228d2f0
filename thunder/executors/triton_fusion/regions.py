"""Which operations become one kernel.

Input: a trace, and which of its operations kernels can do.  Output: groups of operations, and the operations that
stay as they are.

What has to be in memory is decided first: what other operations and the program's outputs need, the results of
reductions, and values that are dearer to compute again than to read back.  Each such value, with what it is computed
from, is a group; a cheap value that several groups use is computed in each.  Then groups are merged, those first that
save the most bytes of memory traffic, as long as one kernel can do both and no group waits for itself.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from thunder.executors.triton_fusion.index import SplitAxis
from thunder.executors.triton_fusion.kernel import Kernel, NotFusible
from thunder.executors.triton_fusion.lowering import lower_region
from thunder.executors.triton_fusion.pointwise import FILLS, POINTWISE, REDUCTIONS
from thunder.executors.triton_fusion.reductions import domain, main_domain, rows_and_chunks
from thunder.executors.triton_fusion.views import VIEWS
from thunder.lower.operators import aten, is_pure, tensor_bytes
from thunder.trace import Op, Trace, Var, iterate_vars

# A kernel has one parameter for each tensor.
_MOST_TENSORS = 64

# Smaller copies that are an operation by themselves stay with PyTorch; the fewest neighbours that a copy moves.
_LARGE_COPY, _SHORTEST_RUN = 1 << 20, 8

# Rows of a weight that are picked up to so many bytes; PyTorch's kernel for more of them is a good one.
_FEW_ROWS = 1 << 18

# Kernels that move less take little more time than their launch: two that share nothing are better as one.
_SMALL_BYTES = 4 << 20

_RANGES = frozenset({aten.arange.default, aten.arange.start, aten.arange.start_step})


def values_read(op: Op) -> Iterator[Var]:
    """The inputs whose elements matter, not only their shape and dtype."""
    if op.target in FILLS:
        return iter(())
    return iterate_vars(op.args[1]) if op.target is aten.copy.default else op.inputs()


def is_free(op: Op) -> bool:
    """Whether the operation costs nothing inside of a kernel: views and constants."""
    return op.target in VIEWS or op.target in FILLS or op.target in _RANGES


def _is_worth_a_kernel(op: Op) -> bool:
    """Whether the operation should be a kernel even if nothing goes with it.

    The second step of a reduction; large copies that bring runs of neighbours into another order: PyTorch's kernel for
    these reaches a third of the bandwidth on an H100; and few rows of a weight, for which PyTorch's takes 9 us there.
    """
    if "second_step" in op.tags:
        return True
    if op.target is aten.embedding.default:
        return tensor_bytes(op.result.value) <= _FEW_ROWS
    if op.target is not aten.clone.default or not isinstance(op.args[0], Var):
        return False
    source, result = op.args[0].value, op.result.value
    if source.dim() < 2 or tensor_bytes(source) < _LARGE_COPY or source.shape[-1] < _SHORTEST_RUN:
        return False
    return source.stride(-1) == result.stride(-1) == 1 and source.stride() != result.stride()


@dataclass(eq=False)
class Group:
    """Operations of one kernel.

    Attributes:
        roots: the values that it is there for; those that are needed outside are written.
        ops: in order.
        inputs: values that it reads.
    """

    roots: list[Var]
    ops: list[Op]
    inputs: dict[int, Var]
    outputs: list[Var] = field(default_factory=list)
    kernel: Kernel | None = None

    @property
    def work(self) -> list[Op]:
        """The operations that are not free."""
        return [op for op in self.ops if not is_free(op)]

    @functools.cached_property
    def reductions(self) -> tuple[Op, ...]:
        """One operation for each arrangement of elements that the reductions have."""
        found = {(domain(op), rows_and_chunks(op)): op for op in self.ops if op.target in REDUCTIONS}
        return tuple(found.values())

    @functools.cached_property
    def counts(self) -> frozenset[int]:
        """How many elements the roots have that are no results of reductions."""
        reduced = {id(var) for op in self.ops if op.target in REDUCTIONS for var in op.outputs()}
        return frozenset(var.value.numel() for var in self.roots if id(var) not in reduced)

    @functools.cached_property
    def traffic(self) -> int:
        """Bytes of what it reads and of its roots."""
        return sum(tensor_bytes(var.value) for var in (*self.inputs.values(), *self.roots))


Item = Group | Op


def partition(trace: Trace, takes: Callable[[Op], bool], *, eager_rounding: bool = False) -> list[Item]:
    """Groups and other operations, in an order in which they can run."""
    return _Partition(trace, takes, eager_rounding).run()


class _Partition:
    """The work of `partition`."""

    def __init__(self, trace: Trace, takes: Callable[[Op], bool], eager_rounding: bool) -> None:
        self.trace, self.ops = trace, list(trace.ops)
        self.eager_rounding = eager_rounding
        self.position = {id(op): number for number, op in enumerate(self.ops)}
        self.maker = {id(var): op for op in self.ops for var in op.outputs()}
        self.users: dict[int, list[Op]] = {}
        for op in self.ops:
            for var in {id(var): var for var in values_read(op)}.values():
                self.users.setdefault(id(var), []).append(op)
        self.mine = {id(op) for op in self.ops if takes(op)}
        self.kept: set[int] = {id(op) for op in self.ops if id(op) not in self.mine}
        self.needed: set[int] = set()
        self.roots: set[int] = set()

    def run(self) -> list[Item]:
        self._need(var for op in self.ops if id(op) in self.kept for var in op.inputs())
        self._need(self.trace.output_vars())
        self._choose_roots()
        groups = self._single_groups()
        groups = _Merging(self, groups).run()
        groups = self._worthwhile(groups)
        return self._ordered(groups)

    # What is in memory --------------------------------------------------------------------------------------------
    def _need(self, variables: Iterable[Var]) -> None:
        """These are needed in memory; views of other values are made outside of kernels."""
        pending = list(variables)
        while pending:
            var = pending.pop()
            op = self.maker.get(id(var))
            if id(var) in self.needed:
                continue
            self.needed.add(id(var))
            if op is None or id(op) not in self.mine:
                continue
            if is_free(op):
                self.kept.add(id(op))
                pending += values_read(op)
            else:
                self.roots.add(id(var))

    def _note_costly(self) -> set[int]:
        """Values that take costly operations on as many elements, by views and cheap operations or not."""
        costly: set[int] = set()
        for op in self.ops:
            if id(op) in self.mine and op.target not in REDUCTIONS:
                for var in op.outputs():
                    count = var.value.numel()
                    inherited = any(id(v) in costly and v.value.numel() >= count for v in values_read(op))
                    if inherited or self._is_costly(op):
                        costly.add(id(var))
        return costly

    def _choose_roots(self) -> None:
        costly = self._note_costly()
        broadcast: set[int] = set()
        reached: dict[int, set[int]] = {}
        for op in reversed(self.ops):
            if id(op) not in self.mine:
                continue
            for var in op.outputs():
                if op.target in REDUCTIONS:
                    self.roots.add(id(var))
                reached[id(var)] = roots = set()
                for user in self.users.get(id(var), ()):
                    if id(user) not in self.mine:
                        continue
                    for result in user.outputs():
                        roots |= {id(result)} if id(result) in self.roots else reached.get(id(result), set())
                        if result.value.numel() > 4 * var.value.numel() or (is_free(user) and id(result) in broadcast):
                            broadcast.add(id(var))
                if is_free(op) or id(var) in self.roots:
                    continue
                if len(roots) > 1 and self._dear(var, len(roots)):
                    self.roots.add(id(var))
                elif id(var) in broadcast and id(var) in costly:
                    self.roots.add(id(var))

    def _is_costly(self, op: Op) -> bool:
        row = POINTWISE.get(op.target)
        return row is not None and row.costly

    def _dear(self, var: Var, count: int) -> bool:
        """Whether computing the value in `count` groups reads more than keeping it does."""
        _, inputs = self._closure([var])
        read = sum(tensor_bytes(other.value) for other in inputs.values())
        return (count - 1) * read >= count * tensor_bytes(var.value)

    # Groups -------------------------------------------------------------------------------------------------------
    def _closure(self, roots: Sequence[Var]) -> tuple[list[Op], dict[int, Var]]:
        """The operations that compute `roots` from values in memory, and these values."""
        own = {id(var) for var in roots}
        ops: dict[int, Op] = {}
        inputs: dict[int, Var] = {}
        pending = list(roots)
        while pending:
            var = pending.pop()
            op = self.maker.get(id(var))
            if op is None or id(op) not in self.mine or (id(var) in self.roots and id(var) not in own):
                inputs[id(var)] = var
            elif id(op) not in ops:
                ops[id(op)] = op
                pending += values_read(op)
        return sorted(ops.values(), key=lambda op: self.position[id(op)]), inputs

    def group(self, roots: Sequence[Var]) -> Group:
        ops, inputs = self._closure(roots)
        return Group(sorted(roots, key=lambda var: self.position[id(self.maker[id(var)])]), ops, inputs)

    def lowered(self, group: Group, outputs: Sequence[Var] | None = None) -> Kernel | None:
        """The group's kernel, if it can be one."""
        try:
            return lower_region(group.ops, outputs or group.roots, eager_rounding=self.eager_rounding)
        except (NotFusible, SplitAxis):
            return None

    def _single_groups(self) -> list[Group]:
        variables = [var for op in self.ops if id(op) in self.mine for var in op.outputs() if id(var) in self.roots]
        groups = [self.group([var]) for var in variables]
        possible = []
        for group in groups:
            if self.lowered(group) is None:
                self._dissolve(group)
            else:
                possible.append(group)
        return possible

    def _dissolve(self, group: Group) -> None:
        """The group's operations run by themselves."""
        self.kept.update(id(op) for op in group.ops)

    def waits_for(self, op: Op) -> Iterator[Var]:
        """What has to be there before the operation runs by itself; see `self_contained`."""
        return values_read(op) if id(op) in self.mine else op.inputs()

    def _worthwhile(self, groups: list[Group]) -> list[Group]:
        """The groups that save something, with their outputs."""
        kept_groups = []
        for group in groups:
            if len(group.work) < 2 and not any(_is_worth_a_kernel(op) for op in group.work):
                self._dissolve(group)
            else:
                kept_groups.append(group)
        changed = True
        while changed:
            changed = False
            for group in list(kept_groups):
                self._find_outputs(group, kept_groups)
                group.kernel = self.lowered(group, group.outputs) if group.outputs else None
                if group.kernel is None or len(group.kernel.inputs) + len(group.outputs) > _MOST_TENSORS:
                    kept_groups.remove(group)
                    self._dissolve(group)
                    changed = True
        return kept_groups

    def _find_outputs(self, group: Group, groups: list[Group]) -> None:
        outside = {id(var) for var in self.trace.output_vars()}
        outside |= {id(var) for op in self.ops if id(op) in self.kept for var in self.waits_for(op)}
        for other in groups:
            if other is not group:
                outside |= set(other.inputs)
        group.outputs = [var for var in group.roots if id(var) in outside]

    # Order --------------------------------------------------------------------------------------------------------
    def _ordered(self, groups: list[Group]) -> list[Item]:
        """Everything that runs, each after what it needs, else in the order of the program."""
        made_by_group = {id(var): group for group in groups for var in group.outputs}
        items: list[Item] = list(groups)
        items += [op for op in self.ops if id(op) in self.kept and not self._is_made(op, made_by_group)]
        provider: dict[int, Item] = {id(v): item for item in items if isinstance(item, Op) for v in item.outputs()}
        provider.update(made_by_group)
        waits: dict[int, set[int]] = {}
        followers: dict[int, list[Item]] = {}
        previous_effect: Item | None = None
        for item in sorted(items, key=self._time):
            reads = self.waits_for(item) if isinstance(item, Op) else item.inputs.values()
            needs = {id(provider[id(var)]): provider[id(var)] for var in reads if id(var) in provider}
            needs.pop(id(item), None)
            if isinstance(item, Op) and not is_pure(item):
                if previous_effect is not None:
                    needs[id(previous_effect)] = previous_effect
                previous_effect = item
            waits[id(item)] = set(needs)
            for need in needs.values():
                followers.setdefault(id(need), []).append(item)
        ready = [(self._time(item), number, item) for number, item in enumerate(items) if not waits[id(item)]]
        heapq.heapify(ready)
        ordered: list[Item] = []
        while ready:
            _, _, item = heapq.heappop(ready)
            ordered.append(item)
            for follower in followers.get(id(item), ()):
                waits[id(follower)].discard(id(item))
                if not waits[id(follower)]:
                    heapq.heappush(ready, (self._time(follower), len(items) + len(ordered), follower))
        assert len(ordered) == len(items), "groups wait for each other"
        return ordered

    def _is_made(self, op: Op, made_by_group: dict[int, Group]) -> bool:
        outputs = list(op.outputs())
        return bool(outputs) and all(id(var) in made_by_group for var in outputs)

    def _time(self, item: Item) -> int:
        if isinstance(item, Op):
            return self.position[id(item)]
        return max(self.position[id(self.maker[id(var)])] for var in item.outputs)


class _Merging:
    """Merges groups, those first that save the most."""

    def __init__(self, owner: _Partition, groups: list[Group]) -> None:
        self.owner, self.groups = owner, groups
        self.alive = {id(group) for group in groups}
        self.candidates: list[tuple[int, int, Group, Group]] = []
        self.count = itertools.count()
        self.keep: list[Group] = []  # so that no other object gets their ids

    def run(self) -> list[Group]:
        for number, first in enumerate(self.groups):
            for second in self.groups[number + 1 :]:
                self._consider(first, second)
        while self.candidates:
            _, _, first, second = heapq.heappop(self.candidates)
            if id(first) not in self.alive or id(second) not in self.alive:
                continue
            merged = self._merged(first, second)
            if merged is None:
                continue
            self.alive -= {id(first), id(second)}
            self.alive.add(id(merged))
            self.groups = [group for group in self.groups if group is not first and group is not second]
            for other in self.groups:
                self._consider(merged, other)
            self.groups.append(merged)
            self.keep += [first, second]
        return self.groups

    def _consider(self, first: Group, second: Group) -> None:
        """Notes the pair, if one kernel may do both and that saves something."""
        if _have_one_domain(first, second):
            saved = self._bytes_saved(first, second)
            if saved > 0:
                heapq.heappush(self.candidates, (-saved, next(self.count), first, second))

    def _bytes_saved(self, first: Group, second: Group) -> int:
        saved = 0
        for one, other in ((first, second), (second, first)):
            for var in one.roots:
                if id(var) in other.inputs:
                    saved += 2 * tensor_bytes(var.value)
        shared = set(first.inputs) & set(second.inputs)
        saved += sum(tensor_bytes(first.inputs[key].value) for key in shared)
        if saved == 0 and max(first.traffic, second.traffic) < _SMALL_BYTES:
            return 1  # one launch in place of two
        return saved

    def _merged(self, first: Group, second: Group) -> Group | None:
        owner = self.owner
        if self._would_wait_for_itself(first, second):
            return None
        merged = owner.group([*first.roots, *second.roots])
        if len(merged.inputs) + len(merged.roots) > _MOST_TENSORS:
            return None
        return merged if owner.lowered(merged) is not None else None

    def _would_wait_for_itself(self, first: Group, second: Group) -> bool:
        """Whether a value of one reaches the other through a third."""
        owner = self.owner
        group_of = {id(var): group for group in self.groups for var in group.roots}
        for start, goal in ((first, second), (second, first)):
            goals = {id(var) for var in goal.roots}
            pending: list[Var] = [var for var in goal.inputs.values() if id(var) not in {id(v) for v in start.roots}]
            targets = {id(var) for var in start.roots}
            seen: set[int] = set()
            while pending:
                var = pending.pop()
                if id(var) in seen:
                    continue
                seen.add(id(var))
                if id(var) in targets:
                    return True
                group = group_of.get(id(var))
                if group is not None and id(var) not in goals:
                    if group is start:
                        return True
                    pending += group.inputs.values()
                    continue
                op = owner.maker.get(id(var))
                if op is not None:
                    pending += owner.waits_for(op)
        return False


def _have_one_domain(first: Group, second: Group) -> bool:
    """Whether the two may be one kernel, by the numbers of elements."""
    counts = first.counts | second.counts
    if not first.reductions and not second.reductions:
        return len(counts) == 1
    main = main_domain((*first.reductions, *second.reductions))
    return main is not None and counts <= {main.rows, main.rows * main.columns}
