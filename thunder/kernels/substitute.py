"""Puts kernels in the place of the operations that they compute.

Input: a torch-level trace.  Output: the same program with calls of kernels.  A match is replaced when

- the kernel's checker accepts it, and its fake form gives the same shapes, dtypes and strides;
- nothing else uses what the match computes on the way;
- moving the computation to where its last operation stands changes nothing: no operation in between changes one of
  its values in place, or PyTorch's grad mode or autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder import _torch_compat
from thunder.kernels.fake_values import is_alike, results_like
from thunder.kernels.pattern import Definitions, Match, match_at
from thunder.kernels.registry import Kernel, active_kernels, is_wanted_on
from thunder.lower.state import is_state_statement
from thunder.trace import Op, Trace, Var, iterate_vars, trace_pass
from thunder.trace.trace import regions_of_op


@trace_pass
def substitute_kernels(trace: Trace, *, is_fused: bool = False) -> Trace:
    """Replaces what the known kernels compute, larger patterns first; see `active_kernels`."""
    trace = without_no_ops(trace)
    for kernel in active_kernels(is_fused=is_fused):
        trace = substitute_kernel(trace, kernel)
    return trace


_MAY_DO_NOTHING = frozenset(
    {"to", "float", "half", "bfloat16", "double", "type", "type_as", "contiguous", "cuda", "cpu"}
)


def without_no_ops(trace: Trace) -> Trace:
    """Without conversions that gave their argument back; they would count as uses of it."""
    ops = [
        op
        for op in trace.ops
        if not (op.name in _MAY_DO_NOTHING and op.args and isinstance(op.result, Var) and op.result is op.args[0])
    ]
    return trace if len(ops) == len(trace.ops) else trace.replace(ops=ops)


def substitute_kernel(
    trace: Trace, kernel: Kernel, is_wanted: Callable[[Op, Surroundings], bool] = lambda call, surroundings: True
) -> Trace:
    """Replaces what one kernel computes, where `is_wanted(call of the kernel, surroundings)`."""
    definitions = Definitions(trace)
    names = {pattern.root_name for pattern in kernel.patterns}
    surroundings = Surroundings(trace)
    taken: set[int] = set()
    calls: dict[int, Op] = {}
    for op in trace.ops:
        if definitions.call(op).name not in names:
            continue
        for pattern in kernel.patterns:
            if pattern.root_name != definitions.call(op).name:
                continue
            match = next(match_at(pattern, op, definitions), None)
            if match is None or any(id(other) in taken for other in match.ops):
                continue
            call = _call(kernel, match, op)
            if call is not None and is_wanted(call, surroundings) and surroundings.may_replace(match, op):
                taken.update(map(id, match.ops))
                calls[id(op)] = call
                break
    if not calls:
        return trace
    ops = [calls.get(id(op), op) for op in trace.ops if id(op) in calls or id(op) not in taken]
    return trace.replace(ops=ops)


def _call(kernel: Kernel, match: Match, root: Op) -> Op | None:
    """The call of the kernel, or None when it does not fit."""
    values = {name: var.value if isinstance(var, Var) else var for name, var in match.bindings.items()}
    tensors = [value for value in values.values() if isinstance(value, torch.Tensor)]
    if not tensors or not all(is_wanted_on(tensor.device.type, kernel.devices) for tensor in tensors):
        return None
    if any(type(size) is not int for tensor in tensors for size in tensor.shape) or not kernel.check(**values):
        return None
    if kernel.inference_only and any(var.value.requires_grad for var in match.outputs):
        return None
    arguments = kernel.arguments(**match.bindings) if kernel.arguments else tuple(match.bindings.values())
    outputs = match.outputs if len(match.outputs) > 1 else match.outputs[0]
    call = Op(kernel.kernel, arguments, {}, outputs, root.location, root.scope)
    return call if gives_the_same(call, match.outputs) else None


def gives_the_same(call: Op, outputs: Sequence[Var]) -> bool:
    """Whether the call's fake form gives tensors like the values of `outputs`."""
    results = results_like(call)
    given = list(results) if isinstance(results, (tuple, list)) else [results]
    return len(given) == len(outputs) and all(is_alike(new, var.value) for new, var in zip(given, outputs))


class Surroundings:
    """What stands around a match in its trace: who uses its values, what happens between its operations."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.positions = {id(op): position for position, op in enumerate(trace.ops)}
        self.users: dict[int, list[Op]] = {}
        for op in trace.ops:
            used = {id(var) for var in op.inputs()}
            for key in used:
                self.users.setdefault(key, []).append(op)
        self.returned = {id(var) for var in trace.output_vars()}
        self.barriers = [
            (position, op) for position, op in enumerate(trace.ops) if is_state_statement(op) or changes_in_place(op)
        ]

    def may_replace(self, match: Match, root: Op) -> bool:
        """Whether the operations of the match may become one at the place of `root`."""
        return self.are_private(match.ops, match.outputs, root) and self.may_move(
            match.ops, root, iterate_vars(tuple(match.bindings.values()))
        )

    def are_private(self, ops: Sequence[Op], outputs: Sequence[Var], root: Op) -> bool:
        """Whether what `ops` compute, but for `outputs`, is used by themselves alone."""
        members = {id(op) for op in ops}
        handed_out = {id(var) for var in outputs}
        last = self.positions[id(root)]
        for op in ops:
            for var in op.outputs():
                others = [user for user in self.users.get(id(var), ()) if id(user) not in members]
                if id(var) in handed_out:
                    if any(self.positions[id(user)] < last for user in others):
                        return False
                elif others or id(var) in self.returned:
                    return False
        return True

    def may_move(self, ops: Sequence[Op], target: Op, values: Any, *, differentiable: bool = True) -> bool:
        """Whether `ops`, which read `values`, may be executed together at the place of `target`.

        `differentiable=False`: they have no gradients and give the same under autocast.
        """
        first, last = min(self.positions[id(op)] for op in ops), self.positions[id(target)]
        read = [var.value for var in values] + [var.value for op in ops for var in op.outputs()]
        storages = {_torch_compat.storage_key(value) for value in read if isinstance(value, torch.Tensor)}
        members = {id(op) for op in ops}
        for position, op in self.barriers:
            if not first < position < last or id(op) in members:
                continue
            if (differentiable and is_state_statement(op)) or storages & _changed_storages(op):
                return False
        return True

    def written_storages(self) -> set[int]:
        """Storages that the program may write to, among those of values that existed before the write."""
        return {key for _, op in self.barriers if not is_state_statement(op) for key in _changed_storages(op)}


def changes_in_place(op: Op) -> bool:
    """Whether the operation may change a value that existed before."""
    if any(True for _ in regions_of_op(op)):
        return True
    name = op.name
    if name in ("__setitem__", "__set__") or (name.startswith("__i") and name.endswith("__") and name != "__invert__"):
        return True
    schema = getattr(op.target, "_schema", None)
    if schema is None:
        schema = getattr(getattr(op.target, "_opoverload", None), "_schema", None)
    if schema is not None and schema.is_mutable:
        return True
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or op.kwargs.get("out") is not None or bool(op.kwargs.get("inplace"))


def _changed_storages(op: Op) -> set[int]:
    """Storages that the operation may write to: for a method in place its tensor's, else those of all arguments."""
    in_place = op.name == "__setitem__" or (op.name.endswith("_") and not op.name.endswith("__"))
    if in_place and op.args and isinstance(op.args[0], Var) and "out" not in op.kwargs:
        return {_torch_compat.storage_key(op.args[0].value)}
    return {_torch_compat.storage_key(var.value) for var in op.inputs() if isinstance(var.value, torch.Tensor)}
