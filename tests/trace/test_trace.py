"""Traces: printing, running what was printed, verification, names."""

import pytest
import torch

from thunder.errors import TraceVerificationError
from thunder.trace import Namer, Op, Region, Trace, Var, delete, map_vars, run_source, trace_pass, verify


def small_trace() -> Trace:
    x, w = Var("x", torch.randn(3, 4)), Var("w", torch.randn(5, 4))
    t0 = Var("t0", torch.randn(3, 5))
    values, indices = Var("values", torch.randn(3)), Var("indices", torch.zeros(3, dtype=torch.int64))
    ops = [
        Op(torch.nn.functional.linear, (x, w), {}, t0),
        Op(torch.Tensor.add_, (t0, 1.0), {}, t0),
        Op(torch.max, (t0, 1), {}, (values, indices)),
        Op(torch.Tensor.__getitem__, (t0, (slice(None), 0, ...)), {}, Var("t1", torch.randn(3))),
    ]
    return Trace("computation", [x, w], ops, {"max": values, "scale": float("inf"), "dtype": torch.float32})


def test_printed_trace_runs_and_equals_the_executed_one():
    trace = small_trace()
    x, w = torch.randn(3, 4), torch.randn(5, 4)
    expected = (torch.nn.functional.linear(x, w) + 1.0).max(1).values
    for function in (trace.callable(), run_source(str(trace), "computation")):
        result = function(x, w)
        torch.testing.assert_close(result["max"], expected)
        assert result["scale"] == float("inf") and result["dtype"] is torch.float32


def test_printed_trace_has_types_and_public_names():
    text = str(small_trace())
    assert 'x: "cpu f32[3, 4]"' in text
    assert "t0 = torch.nn.functional.linear(x, w)" in text
    assert "    torch.Tensor.add_(t0, 1.0)" in text
    assert "values, indices = torch.max(t0, 1)" in text


def test_region_is_printed_once_and_called():
    x = Var("x", torch.randn(3))
    y = Var("y", torch.randn(3))
    inner = Trace("double", [x], [Op(torch.add, (x, x), {}, y)], y)
    region = Region("double", inner)
    a, b, c = (Var(name, torch.randn(3)) for name in "abc")
    outer = Trace("computation", [a], [Op(region, (a,), {}, b), Op(region, (b,), {}, c), Op(delete, (b,))], (c,))
    verify(outer)
    text = str(outer)
    assert text.count("def double(") == 1 and text.count("= double(") == 2 and "del b" in text
    value = torch.randn(3)
    torch.testing.assert_close(run_source(text, "computation")(value)[0], 4 * value)
    torch.testing.assert_close(outer.callable()(value)[0], 4 * value)


@pytest.mark.parametrize("fault", ["undefined", "twice", "deleted", "output"])
def test_verify_names_the_fault(fault):
    trace = small_trace()
    stranger = Var("stranger", None)
    if fault == "undefined":
        trace.ops.insert(0, Op(torch.neg, (stranger,)))
    elif fault == "twice":
        trace.ops.append(Op(torch.neg, (trace.inputs[0],), {}, Var("t0", None)))
    elif fault == "deleted":
        trace.ops.append(Op(delete, (trace.inputs[0],)))
        trace.ops.append(Op(torch.neg, (trace.inputs[0],)))
    else:
        trace.output = stranger
    with pytest.raises(TraceVerificationError, match="stranger|t0|x"):
        verify(trace)


def test_pass_notes_its_name_in_the_history():
    @trace_pass
    def drop_the_max(trace: Trace) -> Trace:
        return trace.replace(ops=trace.ops[:2], output=None)

    result = drop_the_max(small_trace())
    assert "drop_the_max" in result.history[-1] and "# made by drop_the_max" in str(result)


def test_namer_never_repeats():
    namer = Namer({"t1", "weight"})
    assert [namer.fresh(), namer.fresh(), namer.fresh("weight", numbered=False)] == ["t0", "t2", "weight_1"]


def test_map_vars_reaches_into_every_container():
    var = Var("x", None)
    structure = ([var, 1], {"k": (var,)}, slice(var, None))
    assert map_vars(lambda v: v.name, structure) == (["x", 1], {"k": ("x",)}, slice("x", None))
