"""Sizes and numbers that only the values of tensors decide: how many tokens go to an expert, `x.max().item()`.

Such a number is a symbol without a value of PyTorch's shape environment.  Programs compute with it as with any
number; a decision on one (`if count > 3`, `range(count)`) cannot be made while the program is acquired and is an
error.  What PyTorch's kernels, or the user by `torch._check`, take for granted about one becomes a check in the
trace.

Input: calls on shadows whose results have such sizes, or are such numbers.  Output: operations that read the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thunder.acquire.shadows import ShadowTable
from thunder.trace import Op, Var

_ANSWERED_READS = ("item", "tolist")
LONGEST_LIST = 1024
"""Elements of the longest tensor that `tolist` reads one by one."""


class UnknownNumbers(ShadowTable):
    """Reads of numbers that the running program knows, and acquisition does not."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Works out the result of a call and writes it down."""
        raise NotImplementedError

    def _reads_unknown_numbers(self, name: str, shadow: torch.Tensor) -> bool:
        """Whether a call that reads values can be answered by symbols."""
        if not self.has_unknown_numbers() or name not in _ANSWERED_READS:
            return False
        if shadow.is_complex() or not all(type(size) is int for size in shadow.shape):
            return False
        return shadow.numel() <= LONGEST_LIST if name == "tolist" else shadow.numel() == 1

    def has_unknown_numbers(self) -> bool:
        """Whether the program is acquired with symbols for what only values decide."""
        return self.symbols is not None and self.symbols.has_unknown

    def holds_unknown_number(self, values: Sequence[Any]) -> bool:
        """Whether some value is a number that only the running program knows, and all are numbers."""
        numbers = (int, float, torch.SymInt, torch.SymFloat)
        return (
            self.symbols is not None
            and all(isinstance(value, numbers) for value in values)
            and not all(self.symbols.is_known(value) for value in values if isinstance(value, numbers[2:]))
        )

    def number_in(self, value: Any) -> Any:
        """The number that a tensor of one integer stands for, known or as a symbol; other values as they are."""
        if not isinstance(value, torch.Tensor) or not may_be_an_index(value):
            return value
        shadow = value if id(value) in self._vars else self.shadow_of(value)
        known = self._value(shadow)
        if known is not None:
            return int(known)
        return self._unknown_number(shadow) if self._reads_unknown_numbers("item", shadow) else value

    def _value(self, shadow: torch.Tensor) -> torch.Tensor | None:
        """The value of a shadow that depends on small arguments only; they are guarded by value then."""
        constant = self._constants.get(id(shadow))
        if constant is not None or self.values is None:
            return constant
        return self.values.of(shadow, self._vars, self._keep, self.ops)

    def _read_number(self, name: str, shadow: torch.Tensor) -> tuple[Any] | None:
        """The answer to a call that reads values, in symbols; None where a value is needed."""
        if name in ("__bool__", "is_nonzero"):
            measured = self._measured_number(shadow)
            return None if measured is None else (bool(measured != 0),)
        if not self._reads_unknown_numbers(name, shadow):
            return None
        return (self._unknown_numbers(shadow) if name == "tolist" else self._unknown_number(shadow),)

    def _unknown_numbers(self, shadow: torch.Tensor) -> Any:
        """The numbers in a tensor, as `tolist` gives them."""
        if shadow.dim() == 0:
            return self._unknown_number(shadow)
        return [self._unknown_numbers(part) for part in self.call(torch.Tensor.unbind, (shadow,), {})]

    def _unknown_number(self, shadow: torch.Tensor) -> Any:
        """The only number in a tensor."""
        assert self.symbols is not None
        measured = self._measured_number(shadow)
        if measured is not None:
            return measured == 1 if shadow.dtype is torch.bool else measured
        with self.fake_mode:
            number = torch.Tensor.item(shadow)
        self.symbols.fresh_symbols()
        # Fresh, or met where nobody could name it: in a kernel that then failed, or in a region that has been left.
        unnamed = self.symbols.unnamed(number)
        if unnamed:
            var = Var(self.namer.fresh("number"), number)
            self.symbols.define(unnamed[0], var)
            self._write(Op(torch.Tensor.item, (self._vars[id(shadow)],), {}, var))
        return number

    def _measured_number(self, shadow: torch.Tensor) -> Any:
        """The only number in a tensor that is made from small arguments: the prologue can compute it as well."""
        if not self.has_unknown_numbers() or self.values is None or self.symbols is None:
            return None
        key = (id(shadow), shadow._version)
        if key not in self._measured:
            found = self.values.measure(shadow, self._vars, self._keep, self.ops)
            self._measured[key] = None if found is None else self.symbols.measured(*found)
        return self._measured[key]

    def _find_unknown_sizes(self, result: Any) -> None:
        """Remembers of which tensor each new symbol is a size."""
        assert self.symbols is not None
        fresh = set(self.symbols.fresh_symbols())
        if fresh:
            self._find_sizes(result, fresh)

    def _find_sizes(self, result: Any, wanted: set[Any]) -> None:
        assert self.symbols is not None
        if isinstance(result, torch.Tensor):
            for dimension, size in enumerate(result.shape):
                if isinstance(size, torch.SymInt) and size.node.expr in wanted:
                    self.symbols.define_size(size.node.expr, self._vars[id(result)], dimension)
        elif isinstance(result, (tuple, list)) and type(result) is not torch.Size:
            for part in result:
                self._find_sizes(part, wanted)

    def write_assumptions(self) -> None:
        """Writes down, as checks, what has been taken for granted about unknown numbers since the last time."""
        if self.symbols is None:
            return
        for condition in self.symbols.new_assumptions():
            written = self.symbols.written_condition(condition, self._write, self.namer.fresh)
            if written is not None:
                self._write(Op(torch._check, (written,), {}, None))

    def _write(self, op: Op) -> None:
        op.location, op.scope = self.location(), self.scope
        self.ops.append(op)


def may_be_an_index(tensor: torch.Tensor) -> bool:
    """Whether PyTorch would take the tensor's value for a number of elements or a place."""
    return tensor.numel() == 1 and not (tensor.is_floating_point() or tensor.is_complex())
