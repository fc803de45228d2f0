"""Operators that take functions: `torch.cond`, and those that Dynamo puts into its graphs.

Input: calls of such operators.  Output: for `torch.cond` one operation, `choose(predicate, true, false, values of
each)`, whose branches are regions; the running program chooses one.  For the others the call as a whole: their
functions are graphs that take every tensor as an argument.

Invariants, which are `torch.cond`'s own: the branches give tensors of the same types, change nothing that was there
before, and give no tensor that shares memory with one that was.  What breaks them is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from thunder._torch_compat import higher_order_operator, loop_functions, storage_key
from thunder.acquire.recorder import Recorder
from thunder.errors import UnsupportedError
from thunder.trace import Op, Region, Var

_AS_A_WHOLE = ("autograd_function_apply", "flex_attention")


def higher_order_lookasides(recorder: Recorder, one_operation: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """The look-asides, by what they replace; `one_operation(function, args, kwargs)` records a call as a whole."""
    branch = branch_lookaside(recorder)
    table: dict[Any, Callable[..., Any]] = {torch.cond: branch}
    cond = higher_order_operator("cond")
    if cond is not None:
        table[type(cond).__call__] = lambda interp, operator, *args, **kwargs: branch(interp, *args, **kwargs)
    for name, function in loop_functions().items():
        table[function] = _refusal(name, recorder)
    for name in _AS_A_WHOLE:
        operator = higher_order_operator(name)
        if operator is not None:
            table[type(operator).__call__] = lambda interp, called, *args, **kwargs: one_operation(called, args, kwargs)
    return table


def _refusal(name: str, recorder: Recorder) -> Callable[..., Any]:
    def replacement(interp: Any, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"torch's {name} is captured by torch.compile alone",
            recorder.location(),
            "use torch.compile(model, backend='thunder'), or let such calls run in plain Python: "
            "thunder.jit(..., on_break='eager')",
        )

    return replacement


def choose(
    predicate: Any,
    when_true: Callable[..., Any],
    when_false: Callable[..., Any],
    true_values: Sequence[Any],
    false_values: Sequence[Any],
) -> Any:
    """Runs one of two branches on the values that it takes."""
    return when_true(*true_values) if predicate else when_false(*false_values)


def branch_lookaside(recorder: Recorder) -> Callable[..., Any]:
    """The replacement of `torch.cond`."""
    count = 0

    def replacement(interp: Any, pred: Any, true_fn: Any, false_fn: Any, operands: Sequence[Any] = ()) -> Any:
        nonlocal count
        if not isinstance(pred, torch.Tensor):
            return interp.call(true_fn if pred else false_fn, *operands)
        if pred.numel() != 1 or pred.dtype is not torch.bool:
            raise RuntimeError(f"Expected pred to be a bool tensor with one element, but got {pred.dtype} {pred.shape}")
        number, count = count, count + 1
        before = _memory(recorder)
        names = f"when_true_{number}", f"when_false_{number}"
        true, true_taken, true_result = recorder.subtrace(names[0], lambda: interp.call(true_fn, *operands))
        false, false_taken, false_result = recorder.subtrace(names[1], lambda: interp.call(false_fn, *operands))
        leaves, structure = pytree.tree_flatten(true_result)
        others, other_structure = pytree.tree_flatten(false_result)
        location = recorder.location()
        if structure != other_structure or not all(map(_same_kind, leaves, others)):
            raise UnsupportedError(
                "the branches of torch.cond give different kinds of results",
                location,
                "let both return tensors of the same shapes and dtypes, in the same structure",
            )
        for region in (true, false):
            _refuse_side_effects(region, leaves + others, before, recorder)
        for region, values in ((true, leaves), (false, others)):
            region.trace.output = tuple(recorder.var_of(value) for value in values if isinstance(value, torch.Tensor))
        results = [
            recorder.new_result_like(leaf, leaf.requires_grad or other.requires_grad)
            if isinstance(leaf, torch.Tensor)
            else leaf
            for leaf, other in zip(leaves, others)
        ]
        made = tuple(recorder.var_of(result) for result in results if isinstance(result, torch.Tensor))
        arguments = (recorder.var_of(pred), true, false, true_taken, false_taken)
        recorder.ops.append(Op(choose, arguments, {}, made, location, recorder.scope))
        return pytree.tree_unflatten(results, structure)

    return replacement


def _memory(recorder: Recorder) -> set[int]:
    """The storages of the tensors that are there."""
    with torch._C.DisableTorchFunction():
        return {storage_key(tensor) for tensor in recorder.shadows_made()}


def _same_kind(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and one == other
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _refuse_side_effects(region: Region, results: Sequence[Any], before: set[int], recorder: Recorder) -> None:
    """Refuses branches that change a tensor from outside, or give one that shares its memory."""
    outside: set[Var] = set(region.trace.inputs)
    changed = any(var in outside for op in region.trace.ops for var in op.tags.get("changes", ()))
    with torch._C.DisableTorchFunction():
        shared = any(isinstance(value, torch.Tensor) and storage_key(value) in before for value in results)
    if changed or shared:
        what = "changes a tensor from outside" if changed else "gives a tensor from outside, or a view of one"
        raise UnsupportedError(f"a branch of torch.cond {what}", recorder.location(), "return a new tensor: x.clone()")
