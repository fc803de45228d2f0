"""Training in 8 bits: gradients against a straight-through reference in float64, steps beside bf16, saved scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thunder
from tests.precision.models import make, tokens
from thunder.errors import OptionError, QuantizationError
from thunder.plugins import FP8, MXFP8
from thunder.precision import Float8Linear, Float8Recipe, QuantizedLinear, train_in_float8
from thunder.precision.formats import dequantize, quantize
from thunder.precision.operators import linear_float8, linear_in_float8

RECIPES = {
    "tensorwise": Float8Recipe(),
    "e4m3 gradients": Float8Recipe(backward="e4m3/*x*/float32"),
    "rowwise": Float8Recipe("e4m3/1x*/float32", "e5m2/1x*/float32"),
    "mx": Float8Recipe("e4m3/1x32/e8m0", "e4m3/1x32/e8m0"),
}
PLUGINS = [FP8(), FP8(scaling="delayed", history=4), FP8(granularity="row", backward="e4m3"), MXFP8()]


def q(matrix, format):
    width = int(format.split("/")[1].split("x")[1].replace("*", "1"))
    padded = nn.functional.pad(matrix, (0, -matrix.shape[1] % width))
    return dequantize(quantize(padded, format), torch.float64)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_gradients_are_straight_through(recipe):
    torch.manual_seed(0)
    x = torch.randn(2, 12, 64, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(48, 64, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(48, dtype=torch.float64, requires_grad=True)
    tangent = torch.randn(2, 12, 48, dtype=torch.float64)
    out = linear_float8(x, weight, bias, None, None, recipe.forward, recipe.backward)
    found = torch.autograd.grad(out, (x, weight, bias), tangent)
    rows, inputs = tangent.flatten(0, 1), x.detach().flatten(0, 1)
    forward, backward = recipe.forward, recipe.backward
    torch.testing.assert_close(out.flatten(0, 1), q(inputs, forward) @ q(weight.detach(), forward).t() + bias)
    for_x = q(rows, backward) @ q(weight.detach().t(), forward).t()
    for_weight = q(rows.t(), backward) @ q(inputs.t(), forward).t()
    torch.testing.assert_close(found[0].flatten(0, 1), for_x)
    torch.testing.assert_close(found[1], for_weight)
    torch.testing.assert_close(found[2], rows.sum(0))
    # And near to the gradients without quantisation.
    plain = torch.autograd.grad(nn.functional.linear(x, weight, bias), (x, weight), tangent)
    for mine, exact in zip(found, plain):
        assert float((mine - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("rows", [24, 10])
@pytest.mark.parametrize("backward", ["e5m2", "e4m3"])
def test_one_scale_for_a_tensor_has_a_way_of_its_own(backward, rows):
    """Quantised once for both directions: bit by bit what the general form gives, rows filled up included."""
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 64, requires_grad=True), torch.randn(48, 64, requires_grad=True)
    bias, tangent = torch.randn(48, requires_grad=True), torch.randn(rows, 48)
    recipe = Float8Recipe(backward=f"{backward}/*x*/float32")
    wanted = linear_float8(x, weight, bias, None, None, recipe.forward, recipe.backward)
    found = linear_in_float8(x, weight, bias, None, None, "e4m3", backward)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    for mine, its in zip(*(torch.autograd.grad(out, (x, weight, bias), tangent) for out in (found, wanted))):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(linear_in_float8(x, weight, bias, None, None, "e4m3", backward), found)


def test_the_operators_are_well_formed():
    torch.library.opcheck(torch.ops.thunder.quantize_float8.default, (torch.randn(10, 32), None, "e4m3", True))
    a, b = torch.zeros(4, 32, dtype=torch.uint8), torch.zeros(16, 32, dtype=torch.uint8)
    torch.library.opcheck(
        torch.ops.thunder.float8_product.default,
        (a, torch.ones(()), "e5m2", b, torch.ones(()), "e4m3", torch.bfloat16),
    )
    x, weight = torch.randn(3, 32, requires_grad=True), torch.randn(16, 32, requires_grad=True)
    arguments = (x, weight, torch.randn(16, requires_grad=True), None, torch.tensor(2.0))
    torch.library.opcheck(
        torch.ops.thunder.linear_float8.default, (*arguments, Float8Recipe().forward, Float8Recipe().backward)
    )


def train(model, steps=10, **options):
    """Losses of a model that learns to repeat its tokens."""
    compiled = thunder.compile(model, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data, losses = tokens(4, 16), []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = compiled(data)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), data.flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("plugin", PLUGINS, ids=repr)
def test_ten_steps_follow_bf16(plugin):
    plain = train(make().train().bfloat16())
    model = make().train().bfloat16()
    found = train(model, plugins=plugin)
    assert sum(isinstance(module, Float8Linear) for module in model.modules()) == 6
    assert plain[-1] < 0.8 * plain[0]
    assert max(abs(mine - its) / its for mine, its in zip(found, plain)) < 0.03


def test_delayed_scales_are_kept_and_saved():
    model = make().train()
    train(model, steps=3, plugins=FP8(scaling="delayed", history=4))
    layer = model.blocks[0].up
    assert layer.x_history[0] == 0 and (layer.x_history[1:] > 0).all()
    torch.testing.assert_close(layer.weight_history[-1], layer.weight_history[1:].max(), rtol=0.2, atol=0)
    other = train_in_float8(make(seed=3).train(), Float8Recipe(history=4))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.blocks[0].up.x_history, layer.x_history)
    other.eval()
    before = layer.x_history.clone()
    assert torch.equal(other(tokens()), model.eval()(tokens())) and torch.equal(layer.x_history, before)


def test_the_scale_of_a_step_is_that_of_the_steps_before():
    layer = train_in_float8(nn.Linear(32, 32, bias=False), Float8Recipe(history=2))
    x = torch.randn(4, 32)
    first, second, third = layer(x), layer(100 * x), layer(100 * x)
    assert float((second - 100 * first).norm()) > 0.5 * float((100 * first).norm())  # saturated
    torch.testing.assert_close(third, 100 * first, rtol=1e-4, atol=1e-3)


def test_states_without_scales_are_loaded():
    model = train_in_float8(make().train(), Float8Recipe(history=4))
    model.load_state_dict(make(seed=2).state_dict())
    assert torch.equal(model.blocks[0].up.weight, make(seed=2).blocks[0].up.weight)


def test_what_a_model_is_for_decides():
    for plugin in ("fp8", "mxfp8"):
        training, inference = make().train(), make()
        thunder.compile(training, plugins=plugin)
        thunder.compile(inference, plugins=plugin)
        assert isinstance(training.blocks[0].up, Float8Linear)
        assert isinstance(inference.blocks[0].up, QuantizedLinear)
    model = make().train()
    thunder.compile(model, plugins=FP8(use="inference"))
    assert isinstance(model.blocks[0].up, QuantizedLinear)


def test_autocast():
    model = train_in_float8(make().train())
    compiled = thunder.jit(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = compiled.blocks[0].up(torch.randn(2, 64)), compiled(tokens())
    assert found.dtype is torch.bfloat16 and plain.dtype is torch.bfloat16


def test_layers_that_stay_as_they_are():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 30), nn.Linear(30, 64))
    train_in_float8(model)
    assert [type(layer) for layer in model] == [Float8Linear, nn.Linear, nn.Linear]


def test_bad_input():
    with pytest.raises(QuantizationError, match="'0' has 60 inputs and 30 outputs, not multiples of 16"):
        thunder.compile(nn.Sequential(nn.Linear(60, 30)).train(), plugins="fp8")
    with pytest.raises(QuantizationError, match="include='attention' fits no linear layer"):
        thunder.compile(make().train(), plugins=FP8(include="attention"))
    with pytest.raises(OptionError, match="known: delayed, dynamic"):
        FP8(scaling="static")
    with pytest.raises(OptionError, match="one scale for a tensor"):
        FP8(scaling="delayed", granularity="row")
    with pytest.raises(OptionError, match="history=0"):
        FP8(history=0)
    with pytest.raises(OptionError, match="known: auto, inference, training"):
        MXFP8(use="finetuning")
    with pytest.raises(QuantizationError, match="train_in_float8"):
        Float8Linear(2, 2)
