"""Facts about ATen operators that passes ask for, read from PyTorch's own schemas and tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from thunder import _torch_compat
from thunder.trace import Op, Region

aten = torch.ops.aten

# The result is the argument in everything but the memory or the layout that it occupies.
IDENTITIES = frozenset({aten.detach.default, aten.alias.default, aten.lift_fresh.default})


def is_aten(target: Callable[..., Any]) -> bool:
    """Whether the target is an overload of an operator, of ATen or of a custom library."""
    return isinstance(target, torch._ops.OpOverload)


_QUERIES = frozenset(
    {aten.size.default, aten.stride.default, aten.storage_offset.default, aten.numel.default, aten.dim.default}
)
_composite: dict[Any, bool] = {}


def is_composite(target: Any) -> bool:
    """Whether the operator is defined by the calls that it makes to others, gradients included."""
    known = _composite.get(target)
    if known is None:
        known = is_aten(target) and target not in _QUERIES and _torch_compat.has_kernel(target)
        known = _composite[target] = known and target._can_decompose()
    return known


def is_random(op: Op) -> bool:
    """Whether the operation draws random numbers; such operations keep their number and their order."""
    if isinstance(op.target, Region):
        return any(is_random(inner) for inner in op.target.trace.ops)
    return is_random_operator(op.target)


def is_random_operator(target: Any) -> bool:
    """Whether the operator draws random numbers."""
    return is_aten(target) and torch.Tag.nondeterministic_seeded in target.tags


def draws_random_numbers(op: Op) -> bool:
    """Whether the operation changes the state of a generator: attention without dropout, which may, does not."""
    if isinstance(op.target, Region):
        return any(draws_random_numbers(inner) for inner in op.target.trace.ops)
    if not is_random_operator(op.target):
        return False
    for position, argument in enumerate(op.target._schema.arguments):
        if argument.name == "dropout_p":
            given = op.args[position] if position < len(op.args) else op.kwargs.get("dropout_p", argument.default_value)
            return not (isinstance(given, float) and given == 0.0)
    return True


def is_pure(op: Op) -> bool:
    """Whether the operation may be dropped when unused, merged with an equal one, or computed again."""
    if isinstance(op.target, Region):
        return all(is_pure(inner) for inner in op.target.trace.ops)
    if not is_aten(op.target) or is_random(op):
        return False
    schema = op.target._schema
    return not schema.is_mutable and len(schema.returns) > 0


def is_view(op: Op) -> bool:
    """Whether the result shares the memory of an argument, which is left as it is."""
    if not is_aten(op.target):
        return False
    schema = op.target._schema
    return not schema.is_mutable and any(result.alias_info is not None for result in schema.returns)


_UNINITIALISED = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"})


def is_uninitialised(op: Op) -> bool:
    """Whether the operation makes a tensor without contents."""
    return is_aten(op.target) and op.target._schema.name.removeprefix("aten::") in _UNINITIALISED


def tensor_bytes(value: Any) -> int:
    """Bytes that a tensor's elements take; 0 for anything else."""
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
