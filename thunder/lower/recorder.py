"""Records the functional ATen calls that are made while torch-level operations run on fake tensors.

Input: whatever is executed while the recorder is active, below functionalisation and above fake tensors.
Output: `ops`, in order of execution, over Vars whose values are fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from thunder import _torch_compat
from thunder.lower.limits import NotLowerable
from thunder.lower.operators import IDENTITIES, aten, is_composite, is_random_operator, is_uninitialised, is_view
from thunder.trace import Namer, Op, Var

Decompositions = Mapping[Callable[..., Any], Callable[..., Any]]


class _NoProxies:
    """Where functionalisation looks for the FX node of a tensor, to note it: there are none."""

    _entry = SimpleNamespace(proxy=SimpleNamespace(node=None))

    def __getitem__(self, tensor: object) -> SimpleNamespace:
        return self._entry


class AtenRecorder(TorchDispatchMode):
    """A dispatch mode that notes each ATen call as an `Op`.

    Attributes:
        ops: what was recorded.
        source: the torch-level operation that is executing: recorded operations take its location and scope.
        tags: tags of the operations that are recorded from here on.
        stem: stem of the names of their results.
    """

    supports_higher_order_operators = True

    def __init__(self, decompositions: Decompositions | None = None) -> None:
        super().__init__()
        self._mode_key = _torch_compat.recorder_mode_key()
        self.tensor_tracker = _NoProxies()
        self.tracer = self
        self.decompositions = decompositions or {}
        self.ops: list[Op] = []
        self.source: Op | None = None
        self.tags: dict[str, Any] = {}
        self.stem = "t"
        self.namer = Namer()
        self.paused = False
        self._decomposing = 0
        self._vars: dict[int, Var | torch.Tensor] = {}
        self._keep: list[torch.Tensor] = []

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def bind(self, tensor: torch.Tensor, var: Var | torch.Tensor) -> None:
        """From here on `tensor` is this Var (or this real tensor, a constant of the program)."""
        self._vars[id(tensor)] = var
        self._keep.append(tensor)

    def new_input(self, name: str, tensor: torch.Tensor) -> Var:
        """A Var for a tensor that comes from outside."""
        var = Var(self.namer.fresh(name, numbered=False), tensor)
        self.bind(tensor, var)
        return var

    def var_of(self, tensor: torch.Tensor) -> Var | torch.Tensor:
        """The Var of a fake tensor; a real tensor is a constant and stands for itself."""
        found = self._vars.get(id(tensor))
        if found is not None:
            return found
        if not _torch_compat.is_fake(tensor):
            return tensor
        shape = tuple(tensor.shape)
        raise NotLowerable(f"a tensor of shape {shape} is used that no recorded operation made", self.source)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Random operators stay whole: in parts they would draw other numbers than eager PyTorch draws.
        decomposition = None if is_random_operator(func) else self.decompositions.get(func)
        if decomposition is None and self._decomposing and is_composite(func):
            # What autograd, which is above, takes apart reaches the recorder whole from within a decomposition.
            decomposition = func.decompose  # type: ignore[attr-defined]
        if decomposition is not None:
            self._decomposing += 1
            try:
                with self:
                    result = decomposition(*args, **kwargs)
            finally:
                self._decomposing -= 1
            if result is not NotImplemented:
                return result
        if func is aten.native_dropout.default and args[0].device.type == "cpu" and args[2] and 0 < args[1] < 1:
            with self:
                return _dropout_by_mask(args[0], args[1])
        if func is aten.bernoulli.p and not args[0].is_contiguous() and self._is_filled_in_place(args[0]):
            with self:
                return _bernoulli_in_memory_order(*args, **kwargs)
        if func in _BATCH_NORMS:
            with self:
                args = _in_memory_order_of_batch_norm(args)
        result = func(*args, **kwargs)
        if not self.paused:
            self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if func in IDENTITIES and isinstance(args[0], torch.Tensor):
            source = self.var_of(args[0])
            if isinstance(source, Var):
                self.bind(result, source)
                return
            # A constant of the program: nothing may change it in place.
            func, args, kwargs = aten.clone.default, (args[0],), {}
        if getattr(getattr(func, "_schema", None), "is_mutable", False):
            raise NotLowerable(f"{func} changes a value in place beneath functionalisation", self.source)
        if isinstance(result, torch.Tensor) and id(result) in self._vars:
            return  # the argument itself
        variables = self._define(result)
        if isinstance(result, (int, float, bool, complex, torch.dtype, torch.device)):
            return  # a question about a tensor, answered
        source_op = self.source
        self.ops.append(
            Op(
                func,
                self._arguments(args),
                self._arguments(kwargs),
                variables,
                source_op.location if source_op else None,
                source_op.scope if source_op else "",
                tags=dict(self.tags),
            )
        )

    def _is_filled_in_place(self, tensor: torch.Tensor) -> bool:
        """Whether `bernoulli(tensor, p)` was `tensor.bernoulli_(p)` before functionalisation.

        The in-place form draws numbers in the order of the memory, the other in the order of the indices.
        """
        filled = self.source is not None and self.source.name == "bernoulli_"
        maker = self._maker(tensor)
        return filled or (maker is not None and is_uninitialised(maker))

    def _maker(self, tensor: torch.Tensor) -> Op | None:
        """The operation that made the memory of a tensor; None when it comes from outside."""
        var = self._vars.get(id(tensor))
        for op in reversed(self.ops):
            if op.result is var:
                if not is_view(op):
                    return op
                var = op.args[0]  # `empty_like`, decomposed, is a view of `empty`
        return None

    def _arguments(self, structure: Any) -> Any:
        if isinstance(structure, torch.Tensor):
            return self.var_of(structure)
        if isinstance(structure, (list, tuple)):
            items = [self._arguments(item) for item in structure]
            return items if isinstance(structure, list) else tuple(items)
        if isinstance(structure, dict):
            return {key: self._arguments(item) for key, item in structure.items()}
        return structure

    def _define(self, result: Any) -> Any:
        if isinstance(result, torch.Tensor):
            var = Var(self.namer.fresh(self.stem), result)
            self.bind(result, var)
            return var
        if isinstance(result, (list, tuple)):
            return tuple(self._define(item) for item in result)
        return None


def _bernoulli_in_memory_order(tensor: torch.Tensor, p: float, **kwargs: Any) -> torch.Tensor:
    """What `tensor.bernoulli_(p)` draws, as a new tensor."""
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim))
    in_order = aten.permute.default(tensor, order)
    if not in_order.is_contiguous():
        raise NotLowerable("random numbers are drawn into a tensor that is not dense")
    drawn = aten.bernoulli.p(in_order, p, **kwargs)
    return aten.permute.default(drawn, sorted(range(tensor.dim()), key=order.__getitem__))


def _in_memory_order_of_batch_norm(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a batch norm, or of its backward, with the first laid out like the kernel's result.

    On the CPU the result for a transposed tensor is contiguous, where PyTorch's fake kernel says that it is transposed:
    a later `view` would be recorded that real tensors do not allow.
    """
    tensor = args[0]
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    as_it_is = tensor.is_contiguous() or (
        tensor.dim() in formats and tensor.is_contiguous(memory_format=formats[tensor.dim()])
    )
    if as_it_is or tensor.device.type != "cpu":
        return args
    return (aten.clone.default(tensor, memory_format=torch.contiguous_format), *args[1:])


def _dropout_by_mask(tensor: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`native_dropout` on the CPU, in parts: the result can be computed again from the mask."""
    mask = aten.empty_like.default(tensor, dtype=torch.bool)
    mask = aten.bernoulli.p(mask, 1 - p)
    return aten.mul.Tensor(aten.mul.Tensor(tensor, mask), 1 / (1 - p)), mask


_BATCH_NORMS = frozenset(
    {
        aten.native_batch_norm.default,
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
        aten._native_batch_norm_legit_functional.default,
        aten._native_batch_norm_legit_no_training.default,
        aten.native_batch_norm_backward.default,
    }
)
