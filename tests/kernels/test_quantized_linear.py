"""The kernels that read quantised weights, against the dequantised weight in float64."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.comparison import TOLERANCE, relative_error
from thunder.kernels.plain_forms import normalised
from thunder.kernels.swiglu import gated_reference
from thunder.precision.formats import Format, dequantize, get_format, pack, quantize
from thunder.precision.kernels import float8, float8_rows, gemm, gemv, knows, serves, tiles
from thunder.precision.kernels.gemv import Weight

pytestmark = pytest.mark.triton

FORMATS = (
    "int8", "int8/1x32/float16", "int4/1x32/bfloat16", "uint4/1x16/bfloat16+zero", "nf4/1x64/bfloat16", "fp8",
    "e4m3/*x*/float32", "e5m2/1x*/float32", "e4m3/1x64/float32", "e4m3/2x64/float32", "mxfp8", "fp6",
    "e2m3/1x32/e8m0", "mxfp6", "mxfp4", "nvfp4", "int4/1x*/float32",
)  # fmt: skip


def made(format, n, k, dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    stored = quantize(torch.randn(n, k) * torch.logspace(-1, 1, n)[:, None], get_format(format))
    parts = (stored.codes, stored.scales, stored.zeros, stored.tensor_scale)
    return dequantize(stored, torch.float64), Weight(*parts, torch.randn(n, dtype=dtype) if bias else None)


def exact(x, matrix, weight):
    return torch.nn.functional.linear(x.double(), matrix, None if weight.bias is None else weight.bias.double())


def text(format):
    return str(get_format(format))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype, k, plan", [
    (torch.float32, 192, gemv.Plan(4, 16, 1)), (torch.bfloat16, 320, gemv.Plan(8, 64, 1)),
])  # fmt: skip
def test_one_row(format, dtype, k, plan):
    matrix, weight = made(format, 6, k, dtype, bias=k != 320)
    x = torch.randn(1, 1, k, dtype=dtype)
    found = gemv.launch(x, [weight], text(format), plan)
    assert found.shape == (1, 1, 6) and found.dtype is dtype
    # The integers' offset, up to 384, is subtracted from sums in float32.
    assert relative_error(found, exact(x, matrix, weight)) <= max(TOLERANCE[dtype], 3e-5)


@pytest.mark.parametrize("format", ["int4/1x32/bfloat16", "nvfp4", "fp6"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(7, 4), (9, 3, 5)])
def test_several_weights_in_one_launch(format, bias, sizes):
    pairs = [made(format, n, 128, bias=bias) for n in sizes]
    x = torch.randn(1, 128)
    found = gemv.launch(x, [weight for _, weight in pairs], text(format), gemv.Plan(2, 16, 1))
    wanted = torch.cat([exact(x, matrix, weight) for matrix, weight in pairs], -1)
    assert relative_error(found, wanted) < 3e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["int8", "int4", "uint4/1x16/bfloat16+zero", "nvfp4", "mxfp4"])
def test_rows_of_16_bits_are_multiplied_as_integers(format, dtype):
    """As precise as 16-bit results are, also beside inputs a thousand times as large; and steps behind one another."""
    matrix, weight = made(format, 6, 384, dtype, bias=False)
    x = torch.randn(1, 384, dtype=dtype)
    x[0, ::100] *= 1000
    for plan in (gemv.Plan(4, 16, 1), gemv.Plan(8, 128, 1)):
        found = gemv.launch(x, [weight], text(format), plan).double()
        wanted = exact(x, matrix, weight)
        assert ((found - wanted).abs() <= TOLERANCE[dtype] * wanted.abs() + 2e-5 * wanted.abs().max()).all()


def test_what_is_no_number_stays_none():
    matrix, weight = made("int4/1x32/bfloat16", 6, 64, torch.bfloat16)
    for value in (float("nan"), float("inf")):
        x = torch.randn(1, 64, dtype=torch.bfloat16)
        x[0, 5] = value
        assert gemv.launch(x, [weight], "int4/1x32/bfloat16").isnan().all()
    x = torch.full((1, 64), 1e-38, dtype=torch.bfloat16)
    assert torch.equal(gemv.launch(x, [weight], "int4/1x32/bfloat16")[0], weight.bias)


@pytest.mark.parametrize("format", ["int4/1x32/bfloat16", "int8", "nvfp4", "fp8", "nf4/1x64/bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_stands_around_a_row(format, dtype):
    """The norm before, the residual after, gate and up: against the operator's own parts in float64."""
    (first, gate), (second, up) = made(format, 6, 192, dtype), made(format, 6, 192, dtype)
    x, residual, norm = (torch.randn(1, size, dtype=dtype) for size in (192, 6, 192))
    operator = torch.ops.thunder.linear_weight_only_merged
    columns = [[getattr(w, name) for w in (gate, up) if getattr(w, name) is not None]
               for name in ("codes", "scales", "zeros", "tensor_scale", "bias")]  # fmt: skip
    single = [values[:1] for values in columns]
    h = x.double() * torch.rsqrt(x.double().square().mean() + 1e-5) * norm[0].double()
    found = operator(x, *single, text(format), residual, norm[0], 1e-5)
    assert relative_error(found, exact(h, first, gate) + residual.double()) <= max(TOLERANCE[dtype], 3e-5)
    wanted = torch.nn.functional.silu(exact(h, first, gate)) * exact(h, second, up)
    found = operator(x, *columns, text(format), None, norm[0], 1e-5, "silu")
    assert relative_error(found, wanted) <= max(TOLERANCE[dtype], 1e-4)


@pytest.mark.parametrize("plan", [gemm.Plan(32, 16, 64, 4, 1), gemm.Plan(32, 32, 16, 4, 1, splits=2)])
@pytest.mark.parametrize("format", FORMATS)
def test_some_rows(format, plan):
    matrix, weight = made(format, 18, 192)
    x = torch.randn(20, 256)[:, :192]
    found = gemm.launch(x, weight, text(format), plan)
    assert found.shape == (20, 18)
    assert relative_error(found, exact(x, matrix, weight)) < 1e-5


@pytest.mark.parametrize("splits", [1, 5])
@pytest.mark.parametrize("format", ["int4", "int8", "int4/1x32/bfloat16"])
def test_groups_that_fill_steps_and_parts_of_the_columns(format, splits):
    matrix, weight = made(format, 20, 384)
    x = torch.randn(5, 384)
    found = gemm.launch(x, weight, text(format), gemm.Plan(16, 16, 32, 4, 1, splits))
    assert relative_error(found, exact(x, matrix, weight)) < 1e-5


@pytest.mark.parametrize("element", ["e4m3", "e5m2"])
@pytest.mark.parametrize("most", [None, torch.tensor(1.5)])
def test_writing_8_bit_floating_point(element, most):
    torch.manual_seed(0)
    x = torch.randn(40, 144, dtype=torch.bfloat16)
    codes, columns, scale = float8.launch(x, most, element, True)
    wanted = quantize(x, Format(element, 0, 0), most=most)
    assert float(scale) == float(wanted.scales)
    kind = Format(element).kind
    # Triton's interpreter forgets to raise the exponent of what it rounds up to a power of 2: those are left out.
    counted = (wanted.codes & ((1 << kind.mantissa_bits) - 1)) != 0
    numbers, exact_numbers = kind.decode(codes)[counted], kind.decode(wanted.codes)[counted]
    assert ((numbers - exact_numbers).abs() <= exact_numbers.abs() / 4).all() and counted.sum() > 2000
    assert torch.equal(columns[:, :40], codes.t()) and not columns[:, 40:].any() and columns.shape == (144, 48)
    x[3, 3] = float("nan")
    assert float8.launch(x, None, element, False)[2].isnan()


@pytest.mark.parametrize("producer", ["none", "norm", "gate"])
def test_writing_rows_in_8_bits(producer):
    torch.manual_seed(0)
    x, up = torch.randn(2, 7, 144, dtype=torch.bfloat16), torch.randn(2, 7, 144, dtype=torch.bfloat16)
    x[0, 3] = 0
    weight, given, y = torch.randn(144, dtype=torch.bfloat16), (None, 0.0, None, "none"), x
    if producer == "norm":
        given, y = (weight, 1e-5, None, "none"), normalised(x.float(), weight, 1e-5).bfloat16()
    elif producer == "gate":
        given, y = (None, 0.0, up, "silu"), gated_reference(x, up, "silu")
    codes, scales = float8_rows.launch(x, *given)
    wanted = quantize(y.view(14, 144), "fp8")
    assert codes.shape == x.shape and scales.shape == (2, 7, 1)
    torch.testing.assert_close(scales.view(14, 1), wanted.scales, rtol=1e-2, atol=0)
    # Triton's interpreter forgets to raise the exponent of what it rounds up to a power of 2: those are left out.
    counted = (wanted.codes & 7) != 0
    found, exact_numbers = (Format("e4m3").kind.decode(c.view(14, 144))[counted] for c in (codes, wanted.codes))
    is_near = (found - exact_numbers).abs() <= exact_numbers.abs() / 4
    assert is_near.float().mean() > (0.97 if producer != "none" else 0.9999) and counted.sum() > 1400
    x[1, 2, 5] = float("nan")
    assert float8_rows.launch(x, *given)[1][1, 2].isnan().all()


@pytest.mark.parametrize("format", FORMATS)
def test_dequantising(format):
    dtype = torch.bfloat16
    matrix, weight = made(format, 10, 192)
    found = tiles.launch(weight.codes, weight.scales, weight.zeros, weight.tensor_scale, text(format), 192, dtype)
    assert found.dtype is dtype
    assert relative_error(found, matrix) <= TOLERANCE[dtype]


@pytest.mark.parametrize("element", ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "int8", "int4", "uint4", "nf4"])
def test_every_code_is_decoded_exactly(element):
    format = Format(element)
    kind = format.kind
    codes = torch.arange(1 << kind.bits, dtype=torch.uint8)
    numbers = kind.decode(codes)
    finite = numbers.isfinite()
    codes = torch.where(finite, codes, 0).view(1, -1)
    from_codes = kind.decode(codes)
    packed = pack(codes, kind.bits)
    scales = torch.ones(1, 1)
    found = tiles.launch(packed, scales, None, None, str(format), codes.shape[1], torch.float32)
    assert torch.equal(found, from_codes)


@pytest.mark.parametrize("rows, dtype", [
    (1, torch.float32), (5, torch.float32), (5, torch.float16), (80, torch.float32),
])  # fmt: skip
@pytest.mark.parametrize("format", ["int4/1x32/bfloat16", "int8", "fp6"])
def test_the_operator_uses_the_kernels(rows, dtype, format):
    matrix, weight = made(format, 16, 128)
    x = torch.randn(rows, 1, 128).to(dtype)
    operator = torch.ops.thunder.linear_weight_only
    found = operator(x, weight.codes, weight.scales, weight.zeros, weight.tensor_scale, weight.bias, text(format))
    assert relative_error(found, exact(x, matrix, weight)) < (3e-5 if dtype is torch.float32 else 1e-3)
    assert serves(x, weight.codes, text(format))


@pytest.mark.parametrize("format", ["int4/1x48/bfloat16", "int8/1x96/float32"])
def test_groups_that_divide_no_step(format):
    matrix, weight = made(format, 16, 192)
    x = torch.randn(5, 192, dtype=torch.float16)
    parts = (weight.codes, weight.scales, weight.zeros, weight.tensor_scale, weight.bias)
    assert not gemm.serves(get_format(format), 192, x.dtype)
    found = torch.ops.thunder.linear_weight_only(x, *parts, text(format))
    assert relative_error(found, exact(x, matrix, weight)) < 2e-3


def test_what_the_kernels_leave_to_pytorch():
    assert not knows("int4/1x2/bfloat16", 64) and not knows("int8/1x*/float32", 33)
    matrix, weight = made("int8", 4, 33)
    x = torch.randn(2, 33)
    parts = (weight.codes, weight.scales, None, None, weight.bias)
    found = torch.ops.thunder.linear_weight_only(x, *parts, text("int8"))
    assert relative_error(found, exact(x, matrix, weight)) < 1e-6
