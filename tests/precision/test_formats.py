"""Elements bit by bit against ml_dtypes, packing, and scalings against plain arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from thunder.errors import OptionError, QuantizationError
from thunder.precision.formats import (
    ELEMENTS,
    FloatElement,
    Format,
    dequantize,
    empty_quantized,
    format_names,
    get_element,
    get_format,
    pack,
    quantize,
    unpack,
)

FLOATS = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}
INTEGERS = {"int8": np.int8, "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}


def as_bytes(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint8)


def critical_numbers(name: str) -> np.ndarray:
    """Every number of the element, the points half way between neighbours, what lies just beside, and far away."""
    values = np.array([v for v in ELEMENTS[name].values() if np.isfinite(v)], np.float64)
    values = np.unique(values)
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2, values * 1.5, values * 2, values / 2])
    points = points[np.abs(points) < 3.4e38].astype(np.float32)
    near = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))])
    return np.concatenate([near, np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e30, -1e30, 1e-40, 3e38])])


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_every_code_has_the_number_of_ml_dtypes(name):
    element = get_element(name)
    codes = np.arange(1 << element.bits, dtype=np.uint8)
    expected = codes.view({**FLOATS, **INTEGERS}[name]).astype(np.float32)
    if name == "int4":
        expected = codes.astype(np.float32) - 16 * (codes > 7)
    found = element.decode(torch.from_numpy(codes)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(np.signbit(found), np.signbit(expected)) or np.isnan(expected).any()
    np.testing.assert_array_equal(np.array(element.values(), np.float32), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FLOATS)
def test_every_rounding_is_that_of_ml_dtypes(name, dtype):
    numbers = critical_numbers(name)
    if name == "e8m0":  # what is not above 0 has no form
        numbers = numbers[numbers > 2.0**-126]
    with np.errstate(all="ignore"):
        expected = as_bytes(numbers.astype(FLOATS[name]))
    found = get_element(name).encode(torch.from_numpy(numbers).to(dtype), overflow="nonfinite").numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", FLOATS)
def test_sixteen_bit_floats_are_rounded_once(name):
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    numbers = numbers[numbers.float() > 2.0**-126] if name == "e8m0" else numbers
    with np.errstate(all="ignore"):
        expected = as_bytes(numbers.float().numpy().astype(FLOATS[name]))
    found = get_element(name).encode(numbers, overflow="nonfinite").numpy()
    finite = torch.isfinite(numbers).numpy()
    np.testing.assert_array_equal(found[finite], expected[finite])


@pytest.mark.parametrize("name", [name for name, e in ELEMENTS.items() if isinstance(e, FloatElement)])
def test_saturation(name):
    element = get_element(name)
    x = torch.tensor([float("inf"), -float("inf"), element.maximum * 4, -element.maximum * 1.3, element.maximum])
    expected = element.maximum * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    assert torch.equal(element.decode(element.encode(x)), expected)
    nan = element.decode(element.encode(torch.tensor([float("nan")])))
    assert bool(nan.isnan()) == (element.has_nan or element.has_infinity)


@pytest.mark.parametrize("name", [name for name in ELEMENTS if name != "e8m0"])
def test_numbers_of_an_element_stay_what_they_are(name):
    element = get_element(name)
    values = torch.tensor(element.values())
    values = values[values.isfinite()]
    for rounding in ("nearest", "stochastic"):
        assert torch.equal(element.decode(element.encode(values, rounding)), values)


@pytest.mark.parametrize("name", [*ELEMENTS])
def test_stochastic_rounding_is_right_on_average(name):
    element = get_element(name)
    generator = torch.Generator().manual_seed(0)
    for value in (0.8, 1.3, 5.1) if element.maximum > 1 else (0.05, 0.6, -0.9):
        rounded = element.decode(element.encode(torch.full((40000,), value), "stochastic", generator=generator))
        assert len(rounded.unique()) == 2
        spread = float(rounded.max() - rounded.min())
        assert abs(float(rounded.mean()) - value) < 0.02 * spread  # four standard deviations
        assert rounded.min() < value < rounded.max()


def test_nf4_takes_the_nearest_number():
    numbers = torch.linspace(-1.1, 1.1, 997)
    table = torch.tensor(get_element("nf4").values())
    nearest = table[(numbers[:, None] - table).abs().argmin(1)]
    assert torch.equal(get_element("nf4").decode(get_element("nf4").encode(numbers)), nearest)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_packing(bits):
    codes = torch.randint(0, 1 << bits, (3, 5, 24), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (3, 5, 24 * bits // 8)
    assert torch.equal(unpack(packed, bits), codes)
    if bits == 4:
        expected = codes.numpy()[0, 0, :2]
        assert packed[0, 0, 0].item() == expected[0] | expected[1] << 4


def test_rows_that_fill_no_bytes_are_refused():
    with pytest.raises(QuantizationError, match="multiples of 4"):
        pack(torch.zeros(2, 6, dtype=torch.uint8), 6)


@pytest.mark.parametrize("name", format_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formats_come_back_near(name, dtype):
    torch.manual_seed(0)
    format = get_format(name)
    x = torch.randn(256, 384, dtype=dtype)
    stored = quantize(x, name)
    error = float((dequantize(stored) - x.float()).norm() / x.float().norm())
    assert error < {4: 0.15, 6: 0.08, 8: 0.04}[format.bits]
    assert abs(8 * stored.nbytes / x.numel() - format.bits_per_weight((256, 384))) < 1e-9
    # What was stored is a fixed point, but for scales that were rounded.
    if format.scale == "float32" and not format.has_zero_point:
        again = quantize(dequantize(stored), name)
        torch.testing.assert_close(dequantize(again), dequantize(stored), rtol=1e-6, atol=1e-6)
    assert Format.parse(str(format)) == format


@pytest.mark.parametrize("name", format_names())
def test_each_block_has_a_scale_of_its_own(name):
    """Blocks whose magnitudes differ by far are as exact as alone."""
    torch.manual_seed(0)
    format = get_format(name)
    shape = (256, 256)
    rows, columns = format.block(shape)
    sizes = torch.logspace(-2, 2, shape[0] // rows * (shape[1] // columns), base=2.0).view(format.scale_shape(shape))
    factors = sizes.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    x = torch.randn(shape) * factors
    found = dequantize(quantize(x, format))
    block = (slice(rows, 2 * rows) if rows < 256 else slice(None), slice(0, columns))
    alone = x[block]
    kind = Format(format.element, 0, 0, "float32", has_zero_point=format.has_zero_point)
    error = (found[block] - alone).norm() / alone.norm()
    reference = (dequantize(quantize(alone, kind)) - alone).norm() / alone.norm()
    assert error < 1.6 * reference + 1e-3


def test_mx_scales_are_those_of_the_specification():
    x = torch.tensor([[1.0, 6.0, -3.0, 0.5] * 8, [0.0] * 32, [100.0] + [0.0] * 31])
    stored = quantize(x, "mxfp4")
    # floor(log2(largest)) - 2, biased by 127; zeros have the scale 1.
    assert stored.scales.flatten().tolist() == [127, 127, 127 + 6 - 2]
    assert torch.equal(dequantize(stored)[0], x[0])
    assert dequantize(stored)[2, 0] == 6 * 16  # saturated: 100 / 16 is beyond 6


def test_nv_scales_have_two_levels():
    torch.manual_seed(0)
    x = torch.randn(4, 64) * 100
    stored = quantize(x, "nvfp4")
    largest = float(x.abs().max())
    torch.testing.assert_close(float(stored.tensor_scale), largest / (448 * 6))
    assert get_element("e4m3").decode(stored.scales).max() == 448


def test_zeros_and_constants():
    for name in format_names():
        for value in (0.0, 1.0, -2.0):
            x = torch.full((128, 128), value)
            torch.testing.assert_close(dequantize(quantize(x, name)), x, rtol=5e-3, atol=0)


def test_a_large_matrix_is_quantised_as_in_one_piece(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(384, 256)
    for name in format_names():
        whole = quantize(x, name)
        with monkeypatch.context() as patch:
            patch.setattr("thunder.precision.formats.quantized.ROWS_AT_ONCE_ELEMENTS", 1000)
            parts = quantize(x, name)
        assert torch.equal(whole.codes, parts.codes) and torch.equal(whole.scales, parts.scales), name


def test_stochastic_rounding_of_matrices():
    x = torch.full((64, 64), 0.3)
    x[0, 0] = 1.0
    generator = torch.Generator().manual_seed(0)
    found = dequantize(quantize(x, Format("e2m1", 0, 0), rounding="stochastic", generator=generator))
    assert abs(float(found[1:].mean()) - 0.3) < 2e-3
    assert len(found[1:].unique()) == 2


def test_bad_input():
    with pytest.raises(QuantizationError, match="96 x 100.*100 inputs are not divisible by the block of 32"):
        quantize(torch.randn(96, 100), "mxfp4")
    with pytest.raises(QuantizationError, match="100 outputs are not divisible"):
        quantize(torch.randn(100, 128), "fp8-128x128")
    with pytest.raises(QuantizationError, match="no matrix"):
        quantize(torch.randn(3), "int8")
    with pytest.raises(QuantizationError, match="int64"):
        quantize(torch.ones(2, 2, dtype=torch.int64), "int8")
    with pytest.raises(QuantizationError, match="empty"):
        quantize(torch.ones(0, 2), "int8")
    with pytest.raises(OptionError, match="known:.*nvfp4"):
        quantize(torch.ones(2, 2), "fp3")
    with pytest.raises(OptionError, match="uint4"):
        Format("int8", has_zero_point=True)
    with pytest.raises(OptionError, match="known: .*stochastic"):
        get_element("e2m1").encode(torch.ones(1), "down")


@pytest.mark.parametrize("name", ["fp8", "mxfp8", "nvfp4", "int4"])
def test_numbers_that_are_not_finite(name):
    for bad in (float("nan"), float("inf")):
        x = torch.randn(32, 128)
        x[1, 5] = bad
        with pytest.raises(QuantizationError, match="infinities or NaNs"):
            quantize(x, name)
    x[1, 5] = float("nan")
    kept = dequantize(quantize(x, "mxfp8", nonfinite="keep"))
    assert kept[1, :32].isnan().all() and kept[0].isfinite().all() and kept[1, 32:].isfinite().all()


def test_memory_without_contents():
    empty = empty_quantized((64, 64), "nvfp4", "meta")
    filled = quantize(torch.randn(64, 64), "nvfp4")
    for mine, its in zip(vars(empty).values(), vars(filled).values()):
        if isinstance(its, torch.Tensor):
            assert (mine.shape, mine.dtype) == (its.shape, its.dtype)
