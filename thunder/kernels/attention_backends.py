"""Which of PyTorch's attention kernels a call gets, and calls in the form that the fused ones take.

Input: a torch-level trace.  Output: the same program, in which calls that PyTorch would do with plain operators, only
because of how their arguments are laid out, reach a fused kernel: tensors whose last dimension is not the innermost,
tensors of three dimensions.  Calls with a mask stay: kernels differ in what a query gets that sees no key.

What PyTorch chooses is found by running the call on tensors without data, as lowering does.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from thunder import _torch_compat
from thunder.kernels.fake_values import refreshed_values
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import is_disabled, is_wanted_on
from thunder.lower.operators import aten
from thunder.trace import Op, Trace, Var, trace_pass


class _Recorded(TorchDispatchMode):
    """Notes the operators that are called, and the numbers that are made tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Any] = []
        self.numbers: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.scalar_tensor.default:
            self.numbers.append(args[0])
        elif func.namespace == "aten":
            self.operators.append(func)
        return func(*args, **(kwargs or {}))


class Backends:
    """What PyTorch does for calls of attention; equal calls are asked about once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any | None, tuple[float, ...]]] = {}

    def kernel(self, op: Op) -> Any | None:
        """The operator of the fused kernel, or None when plain operators do it."""
        return self._answer(op)[0]

    def number_for_hidden(self, op: Op) -> float | None:
        """The number that is added where a boolean mask is false; None where no fused kernel has one made."""
        kernel, numbers = self._answer(op)
        hidden = [number for number in numbers if number != 0]
        return hidden[0] if kernel is not None and len(hidden) == 1 and len(numbers) == 2 else None

    def _answer(self, op: Op) -> tuple[Any | None, tuple[float, ...]]:
        key = (op.target, _key(op.args), tuple((name, _key(value)) for name, value in sorted(op.kwargs.items())))
        if key not in self._known:
            mode = next(var.value.fake_mode for var in op.inputs() if _torch_compat.is_fake(var.value))
            valued = op.map_inputs(lambda var: var.value)
            with mode, _Recorded() as recorded:
                valued.target(*valued.args, **valued.kwargs)
            fused = [o for o in recorded.operators if o.name().startswith("aten::_scaled_dot_product")]
            fused = [o for o in fused if "attention_math" not in o.name()]
            self._known[key] = (fused[0] if fused else None, tuple(recorded.numbers))
        return self._known[key]


def _key(value: Any) -> Hashable:
    if isinstance(value, Var):
        tensor = value.value
        return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad
    if isinstance(value, (tuple, list)):
        return tuple(map(_key, value))
    return type(value), value


def attention_call(op: Op, definitions: Definitions) -> dict[str | int, Any] | None:
    """Arguments by name of a call of attention on tensors of constant sizes that kernels are wanted on."""
    if op.name != "scaled_dot_product_attention" or not isinstance(op.result, Var):
        return None
    arguments = definitions.call(op).arguments
    if not all(isinstance(arguments.get(name), Var) for name in ("query", "key", "value")):
        return None
    if any(type(size) is not int for var in op.inputs() for size in var.value.shape):
        return None
    return arguments if is_wanted_on(arguments["query"].value.device.type) else None


def with_arguments(op: Op, arguments: dict[str | int, Any]) -> Op:
    """The call with these arguments by name."""
    others = {str(name): value for name, value in arguments.items() if name not in ("query", "key", "value")}
    return replace(op, args=tuple(arguments[name] for name in ("query", "key", "value")), kwargs=others)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """`scaled_dot_product_attention` with its arguments laid out as PyTorch's fused kernels want them."""
    is_flat = query.dim() == 3
    if is_flat:
        query, key, value = (tensor.unsqueeze(1) for tensor in (query, key, value))
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    result = F.scaled_dot_product_attention(query, key, value, **options)
    return result.squeeze(1) if is_flat else result


@trace_pass
def use_fused_attention(trace: Trace) -> Trace:
    """Calls that only their arguments' layout keeps from a fused kernel."""
    if is_disabled("attention"):
        return trace
    definitions, backends = Definitions(trace), Backends()
    calls: dict[int, Op] = {}
    for op in trace.ops:
        arguments = attention_call(op, definitions)
        if arguments is None or not _has_a_layout_to_mend(arguments):
            continue
        if backends.kernel(op) is None:
            mended = replace(with_arguments(op, arguments), target=fused_attention)
            if backends.kernel(mended) is not None:
                calls[id(op)] = mended
    if not calls:
        return trace
    return with_new_layouts(trace, trace.replace(ops=[calls.get(id(op), op) for op in trace.ops]), calls)


def _has_a_layout_to_mend(arguments: dict[str | int, Any]) -> bool:
    inputs = [arguments[name].value for name in ("query", "key", "value")]
    dims = {tensor.dim() for tensor in inputs}
    if arguments.get("attn_mask") is not None:
        return False
    return dims == {3} or (dims == {4} and any(tensor.stride(-1) != 1 for tensor in inputs))


def with_new_layouts(before: Trace, after: Trace, calls: dict[int, Op]) -> Trace:
    """`after` with its example values made true, or `before` when the program does not work on the new layouts.

    `calls`: what has come to stand for operations of `before`.
    """
    values = refreshed_values(after, {id(op) for op in calls.values()})
    if values is None:
        return before
    for var, value in values:
        var.value = value
    return after
