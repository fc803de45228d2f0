"""Passes over functional traces: what they change, and what they leave alone."""

from __future__ import annotations

import pytest
import torch

from thunder.trace import Op, Trace, Var, delete, disabled_passes, run_source, trace_constants, verify
from thunder.transforms import (
    delete_dead_values,
    drop_absent_inputs,
    drop_empty_parts,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    fold_constants,
    rematerialise,
)

aten = torch.ops.aten


class Builder:
    """Writes a trace by executing its operations."""

    def __init__(self, **inputs: torch.Tensor) -> None:
        self.inputs = [Var(name, value) for name, value in inputs.items()]
        self.ops: list[Op] = []
        for var in self.inputs:
            setattr(self, var.name, var)

    def call(self, target, *args, backward=False, recompute=False, **kwargs):
        def value(argument):
            if isinstance(argument, Var):
                return argument.value
            return [value(item) for item in argument] if isinstance(argument, list) else argument

        result = target(*map(value, args), **kwargs)
        number = len(self.ops)
        if isinstance(result, tuple):
            out = tuple(Var(f"t{number}_{part}", item) for part, item in enumerate(result))
        else:
            out = Var(f"t{number}", result)
        tags = {name: True for name, on in (("backward", backward), ("recompute", recompute)) if on}
        self.ops.append(Op(target, args, kwargs, out, tags=tags))
        return out

    def trace(self, output) -> Trace:
        trace = Trace("program", self.inputs, self.ops, output)
        verify(trace)
        return trace


def targets(trace: Trace) -> list:
    return [op.target for op in trace.ops]


def same_results(before: Trace, after: Trace) -> None:
    verify(after)
    arguments = [var.value for var in before.inputs]
    torch.manual_seed(0)
    expected = before.callable()(*arguments)
    torch.manual_seed(0)
    torch.testing.assert_close(after.callable()(*arguments), expected)
    torch.manual_seed(0)
    pasted = run_source(str(after), after.name, trace_constants(after))
    torch.testing.assert_close(pasted(*arguments), expected)


# Dead code ---------------------------------------------------------------------------------------------------------
def test_dead_code_goes_and_random_and_in_place_calls_stay():
    b = Builder(x=torch.randn(3))
    unused = b.call(aten.sin.default, b.x)
    b.call(aten.cos.default, unused)
    b.call(aten.rand_like.default, b.x)
    b.call(aten.add_.Tensor, b.call(aten.clone.default, b.x), 1)
    result = b.call(aten.exp.default, b.x)
    trace = b.trace((result,))
    after = eliminate_dead_code(trace)
    assert targets(after) == [
        aten.rand_like.default, aten.clone.default, aten.add_.Tensor, aten.exp.default
    ]  # fmt: skip
    same_results(trace, after)


def test_a_pass_that_changes_nothing_returns_its_input():
    b = Builder(x=torch.randn(3))
    trace = b.trace((b.call(aten.exp.default, b.x),))
    for function in (eliminate_dead_code, eliminate_common_subexpressions, fold_constants, rematerialise):
        assert function(trace) is trace


def test_a_pass_can_be_switched_off_by_name():
    b = Builder(x=torch.randn(3))
    b.call(aten.sin.default, b.x)
    trace = b.trace((b.x,))
    with disabled_passes({"eliminate_dead_code"}):
        assert eliminate_dead_code(trace) is trace
    assert not eliminate_dead_code(trace).ops


# Common subexpressions ---------------------------------------------------------------------------------------------
def test_equal_expressions_are_computed_once():
    b = Builder(x=torch.randn(3, 4))
    first = b.call(aten.sum.dim_IntList, b.x, [0], True)
    second = b.call(aten.sum.dim_IntList, b.x, [0], True)
    chained = b.call(aten.mul.Tensor, b.call(aten.sin.default, first), b.call(aten.sin.default, second))
    trace = b.trace((chained,))
    after = eliminate_common_subexpressions(trace)
    assert targets(after) == [aten.sum.dim_IntList, aten.sin.default, aten.mul.Tensor]
    same_results(trace, after)


@pytest.mark.parametrize(
    ("first", "second"), [(1, 1.0), (True, 1), (0.0, -0.0)], ids=["int-float", "bool-int", "signs of zero"]
)
def test_constants_that_differ_in_kind_are_not_equal(first, second):
    b = Builder(x=torch.arange(3))
    results = b.call(aten.mul.Tensor, b.x, first), b.call(aten.mul.Tensor, b.x, second)
    trace = b.trace(tuple(b.call(aten.neg.default, result) for result in results))
    assert len(eliminate_common_subexpressions(trace).ops) == 4


def test_random_expressions_are_never_merged():
    b = Builder(x=torch.randn(3))
    first, second = b.call(aten.rand_like.default, b.x), b.call(aten.rand_like.default, b.x)
    trace = b.trace((b.call(aten.add.Tensor, first, second),))
    assert len(eliminate_common_subexpressions(trace).ops) == 3


def test_outputs_do_not_come_to_share_memory():
    b = Builder(x=torch.randn(3, 4))
    first, second = b.call(aten.sin.default, b.x), b.call(aten.sin.default, b.x)
    views = b.call(aten.view.default, first, [12]), b.call(aten.view.default, second, [12])
    trace = b.trace((*views, b.call(aten.cos.default, second)))
    after = eliminate_common_subexpressions(trace)
    one, other, _ = after.callable()(torch.randn(3, 4))
    assert one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()


# Constants ---------------------------------------------------------------------------------------------------------
def test_constants_are_computed_at_compile_time():
    b = Builder(x=torch.randn(4, 4))
    rows = b.call(aten.unsqueeze.default, b.call(aten.arange.default, 4), 1)
    mask = b.call(aten.ge.Tensor, rows, b.call(aten.arange.default, 4))
    trace = b.trace((b.call(aten.mul.Tensor, b.x, mask),))
    after = eliminate_dead_code(fold_constants(trace))
    assert targets(after) == [aten.mul.Tensor]
    same_results(trace, after)


def test_constants_that_are_outputs_large_or_random_stay():
    b = Builder(x=torch.randn(4))
    output = b.call(aten.neg.default, b.call(aten.arange.default, 4))
    large = b.call(aten.neg.default, b.call(aten.arange.default, 1 << 18))
    drawn = b.call(aten.neg.default, b.call(aten.rand.default, [4]))
    used = b.call(aten.add.Tensor, b.x, b.call(aten.sum.default, large))
    trace = b.trace((output, b.call(aten.add.Tensor, used, drawn)))
    after = fold_constants(trace)
    kept = targets(after)
    assert kept.count(aten.arange.default) == 2 and aten.rand.default in kept
    same_results(trace, after)


# Dead values -------------------------------------------------------------------------------------------------------
def test_every_value_is_deleted_once_after_its_last_use():
    b = Builder(x=torch.randn(3), unused=torch.randn(2))
    t = b.call(aten.sin.default, b.x)
    pair = b.call(aten.max.dim, t, 0)
    result = b.call(aten.add.Tensor, t, pair[0])
    trace = b.trace((result,))
    after = delete_dead_values(trace, inputs=True)
    deleted = [var.name for op in after.ops if op.target is delete for var in op.inputs()]
    assert sorted(deleted) == sorted(["x", t.name, pair[0].name, pair[1].name, "unused"])
    same_results(trace, delete_dead_values(after))


# Rematerialisation -------------------------------------------------------------------------------------------------
def crossing(trace: Trace) -> set[str]:
    """Names of the values that pass from forward to backward, inputs left out."""
    forward = {id(var) for op in trace.ops if not op.tags.get("backward") for var in op.outputs()}
    used = [var for op in trace.ops if op.tags.get("backward") for var in op.inputs()]
    return {var.name for var in [*used, *(v for v in trace.output[1] if v)] if id(var) in forward}


def test_pointwise_values_are_computed_again_and_products_are_saved():
    b = Builder(x=torch.randn(8, 8), w=torch.randn(8, 8), tangent=torch.randn(8, 8))
    product = b.call(aten.mm.default, b.x, b.w)
    sine = b.call(aten.sin.default, product)
    exponential = b.call(aten.exp.default, sine)
    result = b.call(aten.mul.Tensor, sine, exponential)
    parts = [b.call(aten.mul.Tensor, b.tangent, value, backward=True) for value in (product, sine, exponential)]
    total = b.call(aten.add.Tensor, b.call(aten.add.Tensor, *parts[:2], backward=True), parts[2], backward=True)
    trace = b.trace(((result,), (total,)))
    after = rematerialise(trace)
    assert crossing(trace) == {product.name, sine.name, exponential.name}
    assert crossing(after) == {product.name}
    same_results(trace, after)


def test_the_smaller_value_is_saved():
    b = Builder(x=torch.randn(64, 64), tangent=torch.randn(64, 64))
    product = b.call(aten.mm.default, b.x, b.x)
    total = b.call(aten.sum.dim_IntList, product, [1], True)
    mask = b.call(aten.gt.Scalar, product, 0.0)
    result = b.call(aten.add.Tensor, product, total)
    back = b.call(aten.where.self, mask, b.tangent, total, backward=True)
    trace = b.trace(((result,), (back,)))
    after = rematerialise(trace)
    assert crossing(after) == {mask.name, total.name}, "a mask takes a quarter of what it was made of"
    same_results(trace, after)


def test_random_values_are_saved_even_in_checkpointed_regions():
    b = Builder(x=torch.randn(8, 8), tangent=torch.randn(8, 8))
    drawn = b.call(aten.rand_like.default, b.x, recompute=True)
    product = b.call(aten.mm.default, b.x, drawn, recompute=True)
    sine = b.call(aten.sin.default, product, recompute=True)
    result = b.call(aten.add.Tensor, sine, 1)
    back = b.call(aten.mul.Tensor, b.tangent, product, backward=True)
    trace = b.trace(((result,), (back,)))
    after = rematerialise(trace)
    assert crossing(after) == {drawn.name}
    assert targets(after).count(aten.mm.default) == 2
    same_results(trace, after)


def test_absent_gradients_are_followed_through_the_trace():
    b = Builder(saved=torch.randn(4, 4), given=torch.randn(4, 4), absent=torch.randn(4, 4))
    product = b.call(aten.mm.default, b.call(aten.t.default, b.absent), b.saved)
    total = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, b.given, b.saved), b.absent)
    compared = b.call(aten.where.self, b.call(aten.gt.Scalar, b.saved, 0.0), b.absent, b.given)
    trace = b.trace((total, product, b.call(aten.silu_backward.default, b.absent, b.saved), compared))
    after = drop_absent_inputs(trace, frozenset({2}))
    verify(after)
    assert [var.name for var in after.inputs] == ["saved", "given"]
    assert after.output[1] is None and after.output[2] is None
    arguments = [b.saved.value, b.given.value]
    expected = trace.callable()(*arguments, torch.zeros(4, 4))
    ours = after.callable()(*arguments)
    torch.testing.assert_close((ours[0], ours[3]), (expected[0], expected[3]))
    assert targets(after).count(aten.full.default) == 1, "only `where` needs zeros"


def test_inputs_that_die_are_not_free():
    b = Builder(h=torch.randn(64, 64), tangent=torch.randn(64, 64))
    small = b.call(aten.sum.dim_IntList, b.h, [1], True)
    scaled = b.call(aten.mul.Tensor, small, 2.0)
    result = b.call(aten.mul.Tensor, b.h, scaled)
    back = b.call(aten.mul.Tensor, b.tangent, scaled, backward=True)
    trace = b.trace(((result,), (back,)))
    assert crossing(rematerialise(trace, transient=frozenset({0}))) <= {small.name, scaled.name}
    same_results(trace, rematerialise(trace, transient=frozenset({0})))


def test_empty_and_whole_parts_are_dropped():
    b = Builder(x=torch.randn(2, 6), y=torch.randn(2, 3))
    empty = b.call(aten.slice.Tensor, b.x, 1, 6, 9)
    joined = b.call(aten.cat.default, [b.x, empty], 1)
    zeros = b.call(aten.zeros.default, [2, 6])
    unchanged = b.call(aten.slice_scatter.default, zeros, empty, 1, 6, 9)
    covered = b.call(aten.slice_scatter.default, zeros, b.x, 1, 0, 9)
    total = b.call(aten.add.Tensor, b.call(aten.add.Tensor, joined, unchanged), covered)
    partly = b.call(aten.slice_scatter.default, total, b.y, 1, 0, 6, 2)
    three = b.call(aten.cat.default, [b.y, empty, b.y], -1)
    trace = b.trace((partly, three))
    after = drop_empty_parts(trace)
    same_results(trace, after)
    assert targets(eliminate_dead_code(after)) == [
        aten.zeros.default, aten.add.Tensor, aten.add.Tensor, aten.slice_scatter.default, aten.cat.default,
    ]  # fmt: skip
    assert len(after.ops[-1].args[0]) == 2


def test_outputs_keep_memory_of_their_own_without_empty_parts():
    b = Builder(x=torch.randn(2, 6), transposed=torch.randn(6, 2).t())
    empty = b.call(aten.slice.Tensor, b.x, 1, 6, 9)
    trace = b.trace(
        (b.x, b.call(aten.cat.default, [b.x, empty], 1), b.call(aten.cat.default, [b.transposed, empty], 1))
    )
    after = drop_empty_parts(trace)
    same_results(trace, after)
    assert targets(after) == [aten.slice.Tensor, aten.clone.default, aten.cat.default]
