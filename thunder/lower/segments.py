"""Cuts a torch-level program into segments, so that repeated layers become equal segments.

Input: operations in order.  Output: consecutive runs of operations that together are the program.

Layers are found by module path: the operations of `model.layers.3` form a run, and where other runs beside it
(`model.layers.4`) make the same calls, they become segments.  A container whose layers all differ is searched for
repeated layers further in.  What is left between layers is cut into segments of its own.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from thunder.lower.state import is_state_statement
from thunder.trace import Op, Region, Var
from thunder.trace.trace import regions_of_op

# Repeated runs shorter than this are not worth a function of their own.
SHORTEST_LAYER = 8


@dataclass
class Segment:
    """Consecutive operations; `scope` is the path of the layer that they are, or empty."""

    ops: list[Op]
    scope: str = ""


def cut_into_segments(ops: Sequence[Op]) -> list[Segment]:
    """Segments of a program, in order."""
    pieces = _cut(list(ops), depth=1)
    merged: list[Segment] = []
    for piece in pieces:
        if merged and not piece.scope and not merged[-1].scope:
            merged[-1].ops.extend(piece.ops)
        else:
            merged.append(piece)
    return merged


def _cut(ops: list[Op], depth: int) -> list[Segment]:
    """Cuts at the `depth`-th numbered component of the module paths, and further in where nothing repeats."""
    runs: list[Segment] = []
    for op in ops:
        scope = _layer_path(op.scope, depth)
        if runs and runs[-1].scope == scope:
            runs[-1].ops.append(op)
        else:
            runs.append(Segment([op], scope))
    if not any(run.scope for run in runs):
        return [Segment(ops)]
    signatures = [_calls_made(run) if run.scope else None for run in runs]
    counts = Counter(signature for signature in signatures if signature is not None)
    segments: list[Segment] = []
    for run, signature in zip(runs, signatures):
        if signature is None:
            segments.append(Segment(run.ops))
        elif counts[signature] > 1 and _size(run.ops) >= SHORTEST_LAYER:
            segments.append(run)
        else:
            segments.extend(_cut(run.ops, depth + 1))
    return segments


def _layer_path(scope: str, depth: int) -> str:
    """`"model.layers.3"` for `"model.layers.3.mlp"` at depth 1; empty when there are fewer numbers in the path."""
    parts = scope.split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            depth -= 1
            if depth == 0:
                return ".".join(parts[: position + 1])
    return ""


def _size(ops: Sequence[Op]) -> int:
    """Number of operations, those in checkpointed regions included."""
    return len(ops) + sum(_size(region.trace.ops) for op in ops for region in regions_of_op(op))


def _calls_made(run: Segment) -> tuple[Hashable, ...]:
    return tuple((_target_key(op.target), op.scope.removeprefix(run.scope)) for op in run.ops)


def _target_key(target: Any) -> Hashable:
    if isinstance(target, types.MethodType):  # `MyFunction.apply` is another object each time
        return (id(target.__self__), id(target.__func__))
    return id(target)


class StructuralKey:
    """Builds a key of a segment that equals another's exactly when one lowered block serves both.

    Vars are numbered by first occurrence; constants count with their type; objects that have no value of their own
    (functions, tensors, generators) count by identity, and are kept alive.
    """

    def __init__(self) -> None:
        self._keep: list[Any] = []

    def key(
        self, segment: Segment, outputs: Sequence[Var], type_of: Callable[[Var], Hashable], states: Hashable
    ) -> tuple[Hashable, list[Var]]:
        """(key, the Vars that enter the segment in order of first use).

        Args:
            segment: whose key it is.
            outputs: the Vars that leave it.
            type_of: what lowering may depend on of a Var that enters.
            states: what it may depend on of the thread's state.
        """
        numbers: dict[int, int] = {}
        inputs: list[Var] = []
        types: list[Hashable] = []

        def use(var: Var) -> int:
            number = numbers.get(id(var))
            if number is None:
                number = numbers[id(var)] = len(numbers)
                inputs.append(var)
                types.append(type_of(var))
            return number

        def define(var: Var) -> int:
            return numbers.setdefault(id(var), len(numbers))

        lines = [self._line(op, use, define) for op in segment.ops]
        leaving = tuple(numbers[id(var)] for var in outputs)
        return (tuple(lines), leaving, tuple(types), states), inputs

    def _line(self, op: Op, use: Callable[[Var], int], define: Callable[[Var], int]) -> Hashable:
        if is_state_statement(op):
            constants = tuple(argument for argument in op.args if not isinstance(argument, Var))
            return (id(op.target), constants)
        arguments = self._structure(op.args, use), self._structure(op.kwargs, use)
        return (self._identity(op.target, use), *arguments, self._structure(op.result, define))

    def _structure(self, value: Any, number: Callable[[Var], int]) -> Hashable:
        kind = type(value)
        if kind is Var:
            return ("var", number(value))
        if kind in (tuple, list):
            return (kind, *[self._structure(item, number) for item in value])
        if kind is dict:
            return (kind, *[(key, self._structure(item, number)) for key, item in value.items()])
        if kind is slice:
            return (kind, *[self._structure(part, number) for part in (value.start, value.stop, value.step)])
        if kind is float:
            return (kind, repr(value))  # tells 0.0 from -0.0 and knows nan
        if kind in (int, bool, str, bytes, complex, type(None), type(Ellipsis)):
            return (kind, value)
        if isinstance(value, tuple):
            return (kind, *[self._structure(item, number) for item in value])
        return self._identity(value, number)

    def _identity(self, value: Any, number: Callable[[Var], int]) -> Hashable:
        if isinstance(value, Region):
            trace = value.trace
            own = {id(var): position for position, var in enumerate(trace.inputs)}

            def inner(var: Var) -> int:
                return own.setdefault(id(var), len(own))

            lines = tuple(self._line(op, inner, inner) for op in trace.ops)
            return ("region", len(trace.inputs), lines, self._structure(trace.output, inner))
        if isinstance(value, types.MethodType):
            return ("method", self._identity(value.__self__, number), self._identity(value.__func__, number))
        self._keep.append(value)
        try:
            hash(value)
        except TypeError:
            return ("object", id(value))
        if type(value).__eq__ is object.__eq__ or callable(value):
            return ("object", id(value))
        return (type(value), value)
