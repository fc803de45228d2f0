"""Attention masks that depend on no input: what they say, found by computing them.

Input: the Var of a mask in a torch-level trace.  Output: "none" for a mask that hides nothing, "causal" for the causal
mask of as many queries as keys, else None.

Libraries make masks in many ways (comparisons of positions, packed sequences found in them, triangles of infinities).
When no input of the program goes into a mask, the operations that make it are executed once, on the CPU, and its
values decide.  Only operations whose results are the same on every device count.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from thunder import _torch_compat
from thunder.kernels.pattern import Definitions
from thunder.kernels.substitute import Surroundings
from thunder.trace import Op, Var, map_vars

Meaning = Literal["none", "causal"]

# Bytes of all values on the way to a mask, beyond which it is not computed: about a second of a CPU's time.
LARGEST = 1 << 30

# Operations that only compute, exactly, and neither draw random numbers nor look at anything but their arguments.
EXACT_OPERATIONS = frozenset(
    {
        "arange", "full", "full_like", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "tensor", "zeros",
        "zeros_like",
        "__add__", "__mul__", "__neg__", "__radd__", "__rmul__", "__rsub__", "__sub__", "abs", "add", "cumsum", "diff",
        "maximum", "minimum", "mul", "neg", "sub",
        "__and__", "__invert__", "__or__", "__xor__", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor",
        "logical_and", "logical_not", "logical_or", "logical_xor",
        "__eq__", "__ge__", "__gt__", "__le__", "__lt__", "__ne__", "eq", "ge", "greater", "greater_equal", "gt", "le",
        "less", "less_equal", "lt", "ne", "not_equal",
        "__getitem__", "broadcast_to", "cat", "chunk", "clone", "contiguous", "detach", "expand", "expand_as",
        "flatten", "masked_fill", "movedim", "permute", "repeat", "repeat_interleave", "reshape", "squeeze", "stack",
        "transpose", "tril", "triu", "unsqueeze", "view", "view_as", "where",
        "bool", "float", "int", "long", "to", "type_as",
    }
)  # fmt: skip


class ConstantMasks:
    """Answers for the masks of one trace; each mask is computed once."""

    def __init__(self, definitions: Definitions, surroundings: Surroundings) -> None:
        self._definitions = definitions
        self._surroundings = surroundings
        self._found: dict[tuple[int, int, int], tuple[Meaning, list[Op]] | None] = {}

    def meaning(self, mask: Var, user: Op, queries: int, keys: int) -> Meaning | None:
        """What the mask says to `user`, attention of so many queries and keys."""
        key = id(mask), queries, keys
        if key not in self._found:
            self._found[key] = self._examine(mask, queries, keys)
        found = self._found[key]
        if found is None or not self._surroundings.may_move(found[1], user, (), differentiable=False):
            return None
        return found[0]

    def hides_nothing(self, part: Var, user: Op) -> bool:
        """Whether a boolean value, part of a mask, is true everywhere when `user` is executed."""
        return part.value.dtype is torch.bool and self.meaning(part, user, 0, 0) == "none"

    def _examine(self, mask: Var, queries: int, keys: int) -> tuple[Meaning, list[Op]] | None:
        ops = self._makers(mask)
        if ops is None:
            return None
        try:
            value = _execute(ops, mask)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return None  # something that only works on the program's own device
        meaning = _meaning(value, queries, keys)
        return None if meaning is None else (meaning, ops)

    def _makers(self, mask: Var) -> list[Op] | None:
        """The operations that make the mask, in order; None when an input goes into it or one is not known."""
        found: dict[int, Op] = {}
        storages: dict[int, int] = {}
        waiting = [mask]
        while waiting:
            var = waiting.pop()
            op = self._definitions.makers.get(id(var))
            if op is None or not _is_exact(op) or not isinstance(var.value, torch.Tensor):
                return None
            if id(op) in found:
                continue
            found[id(op)] = op
            if any(type(size) is not int for size in var.value.shape):
                return None
            storages[_torch_compat.storage_key(var.value)] = var.value.numel() * var.value.element_size()
            waiting += op.inputs()
        if sum(storages.values()) > LARGEST:
            return None
        return sorted(found.values(), key=lambda op: self._surroundings.positions[id(op)])


def _is_exact(op: Op) -> bool:
    is_operator = isinstance(op.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    return not is_operator and op.name in EXACT_OPERATIONS and op.kwargs.get("out") is None


def _execute(ops: list[Op], wanted: Var) -> torch.Tensor:
    """The value of `wanted` on the CPU."""
    values: dict[int, torch.Tensor] = {}

    def on_cpu(argument: Any) -> Any:
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        if isinstance(argument, (tuple, list)) and not isinstance(argument, torch.Size):
            return type(argument)(map(on_cpu, argument))
        return argument

    with torch.no_grad(), torch.device("cpu"):
        for op in ops:
            args = map_vars(lambda var: values[id(var)], op.args)
            kwargs = map_vars(lambda var: values[id(var)], op.kwargs)
            kwargs = {name: "cpu" if name == "device" else on_cpu(value) for name, value in kwargs.items()}
            values[id(op.result)] = op.target(*map(on_cpu, args), **kwargs)
    return values[id(wanted)]


def _meaning(mask: torch.Tensor, queries: int, keys: int) -> Meaning | None:
    visible = mask
    if mask.dtype is not torch.bool:
        if not mask.is_floating_point():
            return None
        visible = mask == 0
        if not bool((visible | (mask <= torch.finfo(mask.dtype).min)).all()):
            return None
    if bool(visible.all()):
        return "none"
    if queries == keys and visible.shape[-2:] == (queries, keys):
        causal = torch.ones(queries, keys, dtype=torch.bool, device="cpu").tril()
        if bool((visible == causal).all()):
            return "causal"
    return None
