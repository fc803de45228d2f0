"""Results of torch calls that depend on values: on numbers in tensors, on small arguments, or in truth on none.

Input: a call whose fake kernel asks for values.  Output: its result, as shadows.  Invariant: sizes are taken from a
call on real values only where all values that can decide on them are known, or where none does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from thunder.acquire.queries import BREAK_REMEDY, VALUE_READS, call_name
from thunder.acquire.real_arguments import LARGEST
from thunder.acquire.shadows import CPU, is_leaf
from thunder.acquire.unknown_numbers import UnknownNumbers
from thunder.errors import DataDependentError

SIZES_KNOWN = frozenset(
    {"cov", "corrcoef", "combinations", "histogram", "geqrf", "_native_batch_norm_legit", "gaussian_nll_loss",
     "linalg_lstsq", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "linear", "einsum"}
)  # fmt: skip
"""Calls whose fake kernels want values, are missing, or refuse what kernels accept (empty matrices of other dtypes),
although the sizes of their results do not depend on them."""
_NUMBERS_ONLY = frozenset({"arange", "linspace", "logspace", "range", "zeros", "ones", "empty", "full", "eye"})
"""Factories: all tensors among their arguments stand for numbers."""


class ValueResults(UnknownNumbers):
    """Works out what a call gives that needs values."""

    def _infer(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
        key: list[Any],
    ) -> Any:
        """The result of any call."""
        raise NotImplementedError

    def _tensor_of_numbers(self, data: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        """`torch.tensor([...])` of numbers that are not known, or tensors of one element: its sizes are known."""

        def exchange(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return torch.ones(value.shape, dtype=value.dtype)
            if isinstance(value, (torch.SymInt, torch.SymFloat)):
                return 1 if isinstance(value, torch.SymInt) else 1.0
            return list(map(exchange, value)) if type(value) in (list, tuple) else value

        with torch._C.DisableTorchFunction():
            like = torch.tensor(exchange(data), **{**kwargs, "device": CPU})
            device = torch.device(kwargs.get("device") or torch.get_default_device())
            return self._new_shadow((like.shape, like.stride(), like.dtype, device, like.requires_grad, True))

    def _infer_from_values(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
        error: Exception,
    ) -> Any:
        """The result of a call that needs values: of tensors that are given for numbers (`x.split([n, m])`), or all."""
        found: list[torch.Tensor] = []
        indexes = call_name(func) in ("__getitem__", "__setitem__")

        def exchange(value: Any) -> Any:
            if indexes and isinstance(value, torch.Tensor) and value.dtype is torch.bool:
                return value  # a mask, also of one element
            if isinstance(value, torch.Tensor):
                number = self.number_in(value)
                if number is not value:
                    found.append(value)
                return number
            if type(value) in (tuple, list):
                return type(value)(map(exchange, value))
            return value

        first = 0 if call_name(func) in _NUMBERS_ONLY else 1  # a method's own tensor is no number
        numbers = (*args[:first], *map(exchange, args[first:]))
        named = {name: exchange(value) for name, value in kwargs.items()}
        if not found:
            return self._run_with_values(func, args, kwargs, shadows, error)
        others: list[torch.Tensor] = []
        key: list[Any] = [func]
        numbers, _ = self._argument(numbers, others, key)
        named, _ = self._argument(named, others, key)
        try:
            return self._infer(func, numbers, named, others, key)
        except TypeError:  # not a number but a tensor is wanted there, such as a mask without dimensions
            return self._run_with_values(func, args, kwargs, shadows, error)

    def _run_with_values(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shadows: list[torch.Tensor],
        error: Exception | None,
    ) -> Any:
        """The result of a call whose sizes depend on values: made for real, with zeros for what is unknown.

        Calls whose sizes do not really depend on values get a matrix of full rank, or ones: zeros are no weights.
        """
        any_values_do = call_name(func) in SIZES_KNOWN and not _rank_decides(func, args, kwargs)
        reals: dict[int, torch.Tensor] = {}
        for shadow in shadows:
            deciding = not shadow.is_floating_point() and not shadow.is_complex()
            value = self._value(shadow) if deciding else None
            if value is None and ((deciding and not any_values_do) or not self._may_be_replayed(shadow)):
                raise self.data_dependent(func) from error
            if value is not None and not value.is_cpu:
                with torch._C.DisableTorchFunction():
                    value = value.cpu()  # all take part in one call
            if value is None:
                with torch._C.DisableTorchFunction():
                    value = torch.empty_strided(shadow.shape, shadow.stride(), dtype=shadow.dtype)
                    value.fill_(1 if any_values_do else 0)
                    if any_values_do and value.dim() > 1:
                        value.diagonal(dim1=-2, dim2=-1).add_(1)
                    if shadow.requires_grad:
                        value = value.requires_grad_().clone()
            reals[id(shadow)] = value
        if not any_values_do and all(shadow.is_floating_point() or shadow.is_complex() for shadow in shadows):
            raise self.data_dependent(func) from error
        device = self._devices[id(shadows[0])]

        def exchange(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return reals.get(id(value), value)
            if type(value) in (tuple, list):
                return type(value)(map(exchange, value))
            if type(value) is dict:
                return {name: exchange(item) for name, item in value.items()}
            return value

        def shadow_like(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                if id(value) in changed:
                    return changed[id(value)]
                if value.untyped_storage()._cdata in storages:
                    raise self.data_dependent(func) from error  # a view of an argument, at an unknown place
                return self._new_shadow(
                    (value.shape, value.stride(), value.dtype, device, value.requires_grad, is_leaf(value))
                )
            if isinstance(value, (tuple, list)):
                return type(value)(map(shadow_like, value))
            return value

        before = {id(real): (real._version, real.shape) for real in reals.values()}
        result = real_call(func, exchange(args), exchange(kwargs))
        changed: dict[int, torch.Tensor] = {}
        storages = {real.untyped_storage()._cdata for real in reals.values()}
        for shadow in shadows:
            real = reals[id(shadow)]
            version, shape = before[id(real)]
            if real._version == version or self._constants.get(id(shadow)) is real:
                continue
            if not any_values_do or real.shape != shape:
                raise self.data_dependent(func) from error
            changed[id(real)] = shadow
            self.changed.append(self._vars[id(shadow)])
            torch.autograd.graph.increment_version(shadow)
            self._metadata.pop(id(shadow), None)
        return shadow_like(result)

    def _may_be_replayed(self, shadow: torch.Tensor) -> bool:
        """Whether a real tensor with the sizes of a shadow can be made, and is not too large."""
        return all(type(size) is int for size in shadow.shape) and shadow.numel() <= LARGEST

    def _values_are_known(self, shadows: list[torch.Tensor]) -> bool:
        """Whether the values of all integers and truth values are known, which decide on sizes."""
        deciding = [shadow for shadow in shadows if not shadow.is_floating_point() and not shadow.is_complex()]
        return bool(deciding) and all(self._value(shadow) is not None for shadow in deciding)

    def data_dependent(self, func: Callable[..., Any]) -> DataDependentError:
        name = call_name(func)
        remedy = VALUE_READS.get(name, (False, "make its size or outcome independent of the values"))[1]
        return DataDependentError(
            f"the program needs the values of a tensor, through {name}",
            self.location(),
            f"{remedy}; {BREAK_REMEDY}",
        )


def _rank_decides(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the size of the residuals of `torch.linalg.lstsq` depends on the rank of the matrix."""
    if call_name(func) != "linalg_lstsq":
        return False
    matrix: torch.Tensor = args[0] if args else kwargs["A"]
    driver = kwargs.get("driver", args[3] if len(args) > 3 else None)
    return matrix.shape[-2] > matrix.shape[-1] and driver in ("gelsd", "gelss")


def holds_unknown(data: Any) -> bool:
    """Whether a nested list holds tensors or symbols."""
    if type(data) in (list, tuple):
        return any(map(holds_unknown, data))
    return isinstance(data, (torch.Tensor, torch.SymInt, torch.SymFloat))


def real_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        result: torch.Tensor = func(*args, **kwargs)
    return result
