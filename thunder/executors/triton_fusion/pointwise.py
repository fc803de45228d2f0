"""Pointwise operators as expressions of the kernel's language.

One row an operator: in which dtype its arguments meet, and the expression, in which `{0}`, `{1}` stand for them.
Arithmetic on 16-bit floats is done in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from thunder.lower.operators import aten

prims = torch.ops.prims

# How the dtype in which the arguments meet is found.
RESULT = "result"  # the dtype of the result
PROMOTED = "promoted"  # what PyTorch promotes the arguments to
BOOLEAN = "boolean"  # truth values


@dataclass(frozen=True)
class Pointwise:
    """An operator: `template`, or a function that makes it from the operator's arguments.

    Attributes:
        template: the expression.
        meet: see above.
        costly: whether computing it again costs more than reading a value back.
        keywords: keyword arguments that are handled.
    """

    template: str | Callable[..., str | None]
    meet: str = RESULT
    costly: bool = False
    keywords: frozenset[str] = frozenset()


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of `dtype` are held inside of a kernel."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


TRITON_NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "int1",
}


def triton_name(dtype: torch.dtype) -> str:
    """`tl.float32` and so on."""
    return f"tl.{TRITON_NAMES[dtype]}"


def literal(value: Any) -> str:
    """A Python number as the kernel's language writes it."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    return repr(value) if value >= 0 else f"({value!r})"


_NAN = "propagate_nan=tl.PropagateNan.ALL"


def _clamp(_self: Any, low: Any = None, high: Any = None) -> str | None:
    if low is None and high is None:
        return "{0}"
    if low is None:
        return f"tl.minimum({{0}}, {{1}}, {_NAN})"
    if high is None:
        return f"tl.maximum({{0}}, {{1}}, {_NAN})"
    return f"tl.minimum(tl.maximum({{0}}, {{1}}, {_NAN}), {{2}}, {_NAN})"


def _power(_base: Any, exponent: Any) -> str:
    if isinstance(exponent, (int, float)):
        known: dict[float, str] = {0: "({0} * 0 + 1)", 1: "{0}", 2: "{0} * {0}", 3: "{0} * {0} * {0}", -1: "1.0 / {0}"}
        known |= {0.5: "tl.sqrt({0})", -0.5: "tl.rsqrt({0})", 4: "({0} * {0}) * ({0} * {0})"}
        if exponent in known:
            return known[exponent]
    return "device_math.pow({0}, {1})"


def _divide(_left: Any, _right: Any, rounding_mode: str | None = None) -> str | None:
    if rounding_mode is None:
        return "{0} / {1}"
    return {"floor": "tl.floor({0} / {1})", "trunc": "device_math.trunc({0} / {1})"}.get(rounding_mode)


def _gelu(_self: Any, approximate: str = "none") -> str:
    if approximate == "tanh":
        inner = "(0.7978845608028654 * ({0} + 0.044715 * {0} * {0} * {0}))"
        return f"0.5 * {{0}} * (1.0 + device_math.tanh({inner}))"
    return "0.5 * {0} * (1.0 + tl.erf({0} * 0.7071067811865476))"


def _row(template: Any, meet: str = RESULT, *, costly: bool = False, keywords: tuple[str, ...] = ()) -> Pointwise:
    return Pointwise(template, meet, costly, frozenset(keywords))


POINTWISE: dict[Any, Pointwise] = {
    aten.add.Tensor: _row(lambda *_, alpha=1: "{0} + {1}" if alpha == 1 else f"{{0}} + {literal(alpha)} * {{1}}",
                          keywords=("alpha",)),
    aten.add.Scalar: _row(lambda *_, alpha=1: "{0} + {1}" if alpha == 1 else f"{{0}} + {literal(alpha)} * {{1}}",
                          keywords=("alpha",)),
    aten.sub.Tensor: _row(lambda *_, alpha=1: "{0} - {1}" if alpha == 1 else f"{{0}} - {literal(alpha)} * {{1}}",
                          keywords=("alpha",)),
    aten.sub.Scalar: _row(lambda *_, alpha=1: "{0} - {1}" if alpha == 1 else f"{{0}} - {literal(alpha)} * {{1}}",
                          keywords=("alpha",)),
    aten.mul.Tensor: _row("{0} * {1}"),
    aten.mul.Scalar: _row("{0} * {1}"),
    aten.div.Tensor: _row("{0} / {1}"),
    aten.div.Scalar: _row("{0} / {1}"),
    aten.div.Tensor_mode: _row(_divide, keywords=("rounding_mode",)),
    aten.div.Scalar_mode: _row(_divide, keywords=("rounding_mode",)),
    aten.neg.default: _row("-{0}"),
    aten.abs.default: _row("tl.abs({0})"),
    aten.reciprocal.default: _row("1.0 / {0}"),
    aten.sqrt.default: _row("tl.sqrt({0})"),
    aten.rsqrt.default: _row("tl.rsqrt({0})"),
    aten.exp.default: _row("tl.exp({0})", costly=True),
    aten.exp2.default: _row("tl.exp2({0})", costly=True),
    aten.expm1.default: _row("device_math.expm1({0})", costly=True),
    aten.log.default: _row("tl.log({0})", costly=True),
    aten.log2.default: _row("tl.log2({0})", costly=True),
    aten.log1p.default: _row("device_math.log1p({0})", costly=True),
    aten.sin.default: _row("tl.sin({0})", costly=True),
    aten.cos.default: _row("tl.cos({0})", costly=True),
    aten.tanh.default: _row("device_math.tanh({0})", costly=True),
    aten.erf.default: _row("tl.erf({0})", costly=True),
    aten.sigmoid.default: _row("1.0 / (1.0 + tl.exp(-{0}))", costly=True),
    aten.silu.default: _row("{0} / (1.0 + tl.exp(-{0}))", costly=True),
    aten.gelu.default: _row(_gelu, costly=True, keywords=("approximate",)),
    aten.relu.default: _row("tl.where({0} <= 0, 0, {0})"),
    aten.leaky_relu.default: _row(
        lambda _self, slope=0.01: f"tl.where({{0}} > 0, {{0}}, {{0}} * {literal(slope)})"),
    aten.floor.default: _row("tl.floor({0})"),
    aten.ceil.default: _row("tl.ceil({0})"),
    aten.trunc.default: _row("device_math.trunc({0})"),
    aten.pow.Tensor_Scalar: _row(_power, costly=False),
    aten.pow.Tensor_Tensor: _row(_power, costly=True),
    aten.square.default: _row("{0} * {0}"),
    aten.maximum.default: _row(f"tl.maximum({{0}}, {{1}}, {_NAN})"),
    aten.minimum.default: _row(f"tl.minimum({{0}}, {{1}}, {_NAN})"),
    aten.clamp.default: _row(_clamp, keywords=("min", "max")),
    aten.clamp.Tensor: _row(_clamp, keywords=("min", "max")),
    aten.clamp_min.default: _row(f"tl.maximum({{0}}, {{1}}, {_NAN})"),
    aten.clamp_max.default: _row(f"tl.minimum({{0}}, {{1}}, {_NAN})"),
    aten.where.self: _row("tl.where({0}, {1}, {2})"),
    aten.eq.Tensor: _row("{0} == {1}", PROMOTED),
    aten.eq.Scalar: _row("{0} == {1}", PROMOTED),
    aten.ne.Tensor: _row("{0} != {1}", PROMOTED),
    aten.ne.Scalar: _row("{0} != {1}", PROMOTED),
    aten.lt.Tensor: _row("{0} < {1}", PROMOTED),
    aten.lt.Scalar: _row("{0} < {1}", PROMOTED),
    aten.le.Tensor: _row("{0} <= {1}", PROMOTED),
    aten.le.Scalar: _row("{0} <= {1}", PROMOTED),
    aten.gt.Tensor: _row("{0} > {1}", PROMOTED),
    aten.gt.Scalar: _row("{0} > {1}", PROMOTED),
    aten.ge.Tensor: _row("{0} >= {1}", PROMOTED),
    aten.ge.Scalar: _row("{0} >= {1}", PROMOTED),
    aten.isnan.default: _row("{0} != {0}", PROMOTED),
    aten.isinf.default: _row('tl.abs({0}) == float("inf")', PROMOTED),
    aten.logical_and.default: _row("{0} & {1}", BOOLEAN),
    aten.logical_or.default: _row("{0} | {1}", BOOLEAN),
    aten.logical_xor.default: _row("{0} ^ {1}", BOOLEAN),
    aten.logical_not.default: _row("{0} == 0", BOOLEAN),
    aten.bitwise_and.Tensor: _row("{0} & {1}"),
    aten.bitwise_and.Scalar: _row("{0} & {1}"),
    aten.bitwise_or.Tensor: _row("{0} | {1}"),
    aten.bitwise_or.Scalar: _row("{0} | {1}"),
    aten.bitwise_xor.Tensor: _row("{0} ^ {1}"),
    aten.bitwise_not.default: _row("{not}"),
}  # fmt: skip

# Values of their arguments, in another dtype or layout.
CONVERSIONS = frozenset(
    {
        aten._to_copy.default, aten.clone.default, aten.copy.default, aten.lift_fresh_copy.default,
        aten.contiguous.default, prims.convert_element_type.default, aten.alias.default, aten.detach.default,
    }
)  # fmt: skip

# Constant tensors, and the position of the number that fills them (or the number).
FILLS: dict[Any, Callable[..., Any]] = {
    aten.full.default: lambda _size, value, **_: value,
    aten.full_like.default: lambda _like, value, **_: value,
    aten.new_full.default: lambda _like, _size, value, **_: value,
    aten.scalar_tensor.default: lambda value, **_: value,
    aten.zeros.default: lambda *_, **__: 0,
    aten.zeros_like.default: lambda *_, **__: 0,
    aten.new_zeros.default: lambda *_, **__: 0,
    aten.ones.default: lambda *_, **__: 1,
    aten.ones_like.default: lambda *_, **__: 1,
    aten.new_ones.default: lambda *_, **__: 1,
}


@dataclass(frozen=True)
class Reduction:
    """An operator that combines elements along axes.

    Attributes:
        neutral: what leaves the other elements as they are.
        combine: how two accumulated values become one.
        finish: Triton's reduction of a block `{0}` along the axis `{1}`.
    """

    neutral: str
    combine: str
    finish: str


SUM = Reduction("0", "{0} + {1}", "tl.sum({0}, {1})")
MAXIMUM = Reduction('float("-inf")', f"tl.maximum({{0}}, {{1}}, {_NAN})", "row_maximum({0}, {1})")
MINIMUM = Reduction('float("inf")', f"tl.minimum({{0}}, {{1}}, {_NAN})", "row_minimum({0}, {1})")
ANY = Reduction("0", "{0} | {1}", "tl.max({0}, {1})")
ALL = Reduction("1", "{0} & {1}", "tl.min({0}, {1})")

REDUCTIONS: dict[Any, tuple[Reduction, bool]] = {  # with whether the result is divided by the count
    aten.sum.default: (SUM, False),
    aten.sum.dim_IntList: (SUM, False),
    aten.mean.default: (SUM, True),
    aten.mean.dim: (SUM, True),
    aten.amax.default: (MAXIMUM, False),
    aten.amin.default: (MINIMUM, False),
    aten.max.default: (MAXIMUM, False),
    aten.min.default: (MINIMUM, False),
    aten.any.default: (ANY, False),
    aten.any.dim: (ANY, False),
    aten.any.dims: (ANY, False),
    aten.all.default: (ALL, False),
    aten.all.dim: (ALL, False),
}
