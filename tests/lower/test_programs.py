"""Lowered programs do what eager PyTorch does: values, gradients, aliasing, mutation, randomness, state."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import thunder

sys.path.insert(0, str(Path(__file__).parent))
from comparison import check, compile_function
from record import checkpointed


def tensor(*shape, grad=False, dtype=torch.float32, seed=0):
    value = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return value.requires_grad_(grad)


def several_outputs(x, w):
    h = x @ w
    return {"h": h, "sum": h.sum(), "argmax": h.argmax(-1), "number": 3}


def in_place_chain(x, w):
    h = x @ w
    h.add_(1).mul_(x.sum())
    h[0] = 2.0
    h[:, 1] += x[:, 0]
    return h.relu_() + h


def complex_views(x, w):
    z = torch.view_as_complex((x @ w).view(-1, 2))
    return torch.view_as_real(z * z), z.abs()


def views_and_writes(x):
    y = x * 2
    first, second = y[0], y[1]
    first.add_(second)
    z = y.view(-1)
    z[3] = 5.0
    return y.sum(), first * 2


def buffer_filled(x, w):
    buffer = torch.zeros(4, 3)
    for i in range(4):
        buffer[i] = x[i] * w
    return buffer.cumsum(0)


def detached(x, w):
    h = (x * w).detach()
    return h * w, (x * w).sum().detach()


def no_grad_inside(x, w):
    with torch.no_grad():
        scale = (x * w).norm()
    return x * w / scale


def enable_grad_in_no_grad(x, w):
    with torch.no_grad():
        y = x * w
        with torch.enable_grad():
            z = y * w
    return y, z


def same_output_twice(x):
    y = x.sin()
    return y, y, [y]


def unused_input(x, w):
    return x.exp()


def gradient_to_one_only(x, w):
    return (x.detach() * w).sum()


def tied(x, w):
    return (x @ w) @ w.t()


def gather_scatter(x, w):
    index = torch.tensor([0, 2, 1])
    picked = w[index]
    return torch.zeros(4, 3).index_add(0, index, picked) + x


def mixed_dtypes(x, w):
    return (x.double() @ w.double()).float().to(torch.bfloat16), x.int() + 1


def normalised(x, w):
    return F.layer_norm(x, (3,)), F.softmax(x @ w, -1), F.cross_entropy(x, torch.tensor([0, 1, 2, 0]))


FUNCTIONS = [
    (several_outputs, [(4, 3), (3, 3)]),
    (in_place_chain, [(4, 3), (3, 3)]),
    (complex_views, [(4, 3), (3, 4)]),
    (views_and_writes, [(2, 3)]),
    (buffer_filled, [(4, 3), (3,)]),
    (detached, [(4, 3), (4, 3)]),
    (no_grad_inside, [(4, 3), (4, 3)]),
    (enable_grad_in_no_grad, [(4, 3), (4, 3)]),
    (same_output_twice, [(4, 3)]),
    (unused_input, [(4, 3), (3, 3)]),
    (gradient_to_one_only, [(4, 3), (4, 3)]),
    (tied, [(4, 3), (3, 3)]),
    (gather_scatter, [(4, 3), (3, 3)]),
    (mixed_dtypes, [(4, 3), (3, 3)]),
    (normalised, [(4, 3), (3, 3)]),
]


@pytest.mark.parametrize("requires_grad", ["none", "first", "last", "all"])
@pytest.mark.parametrize(("function", "shapes"), FUNCTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_function(function, shapes, requires_grad):
    last = len(shapes) - 1
    wanted = {"none": (), "first": (0,), "last": (last,), "all": range(last + 1)}[requires_grad]
    check(function, *(tensor(*shape, grad=n in wanted, seed=n) for n, shape in enumerate(shapes)))


@pytest.mark.parametrize(("function", "shapes"), FUNCTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_function_under_no_grad(function, shapes):
    with torch.no_grad():
        check(function, *(tensor(*shape, grad=True, seed=n) for n, shape in enumerate(shapes)))


# Outputs that are inputs, or share memory --------------------------------------------------------------------------
def returns_input(x):
    return x, x * 2


def returns_view_of_input(x):
    return x.view(-1), x[1:], x.t(), x * 2


def returns_detached_input(x):
    return x.detach(), x * 2


def returns_result_and_view(x):
    y = x * 2
    return y, y.view(-1), y[0]


def returns_result_and_detached(x):
    y = (x * 2).sum()
    return y, y.detach()


def returns_transposed_result(x):
    return (x * 2).t()


def returns_equal_results(x):
    return x * 2, x * 2


def returns_constant_and_fill(x):
    return torch.ones(3), torch.ones(3), torch.arange(4) + 1, x * 2


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        returns_input,
        returns_view_of_input,
        returns_detached_input,
        returns_result_and_view,
        returns_result_and_detached,
        returns_transposed_result,
        returns_equal_results,
        returns_constant_and_fill,
    ],
)
def test_aliasing_of_outputs(function, grad):
    check(function, tensor(3, 4, grad=grad))


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_dropout_between_the_layers_of_a_recurrent_network(kind):
    torch.manual_seed(0)
    network = kind(3, 4, num_layers=2, dropout=0.4, batch_first=True)
    for training in (True, False):
        compiled, found = thunder.jit(network.train(training), executors=["aten"]), []
        for function in (network, compiled):
            torch.manual_seed(1)
            x = tensor(2, 5, 3, grad=True)
            result = function(x)[0]
            result.square().sum().backward()
            found.append((result, x.grad, torch.rand(1)))
        torch.testing.assert_close(*found)
        assert any("dropout between them" in note for note in thunder.compile_stats(compiled).notes) is training


def test_an_output_that_is_a_view_can_be_changed_in_place():
    x = tensor(3, 4, grad=True)
    compiled, _ = compile_function(returns_transposed_result, x)
    (result,) = compiled.run(x)
    result.mul_(3)
    result.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3, 4), 6.0))


def test_views_of_an_input_carry_changes_both_ways():
    x = tensor(3, 4)
    compiled, _ = compile_function(returns_view_of_input, x)
    flat = compiled.run(x)[0]
    x[0, 0] = 7.0
    assert flat[0] == 7.0
    flat[1] = 8.0
    assert x[0, 1] == 8.0


def chunks(x):
    return (x * 2).chunk(3)


@pytest.mark.parametrize("grad", [False, True])
def test_several_views_of_a_hidden_value_run_as_they_stand(grad):
    check(chunks, tensor(6, 4, grad=grad), lowered=False)


# Changed inputs ----------------------------------------------------------------------------------------------------
def changes_input(x, w):
    x.add_(1)
    return x * w


def changes_view_of_input(x, w):
    x[0].mul_(2)
    x.view(-1)[1] = 3.0
    return x * w, x.sum()


def changes_input_then_returns_it(x, w):
    y = x.clone() * w
    x.copy_(y.detach())
    return x, x.view(-1), y


def changes_after_use_in_gradient(x, w):
    y = x.clone() * w
    x.zero_()
    return y


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "function",
    [changes_input, changes_view_of_input, changes_input_then_returns_it, changes_after_use_in_gradient],
)
def test_changed_inputs(function, grad):
    check(function, tensor(3, 4), tensor(3, 4, grad=grad, seed=1))


def test_changing_an_input_is_noticed_by_autograd():
    compiled, _ = compile_function(changes_input, tensor(3), tensor(3, grad=True))
    x, w = tensor(3), tensor(3, grad=True)
    version = x._version
    y = x * w
    compiled.run(x, w)
    assert x._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_changing_a_parameter_under_no_grad():
    def function(x):
        with torch.no_grad():
            x.mul_(2)
        return x * x.detach()

    check(function, tensor(3, grad=True))


def test_changing_an_input_by_a_value_that_requires_grad_runs_as_it_stands():
    def function(x, w):
        x.mul_(w)
        return x * 2

    x, w = tensor(3), tensor(3, grad=True)
    compiled, _ = compile_function(function, x, w)
    assert any("requires grad" in note for note in compiled.notes)
    x = tensor(3)
    (result,) = compiled.run(x, w)
    assert x.requires_grad
    torch.testing.assert_close(torch.autograd.grad(result.sum(), w)[0], 2 * tensor(3))


# Modules -----------------------------------------------------------------------------------------------------------
def test_batch_norm_updates_its_statistics():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True))
    check(model, tensor(2, 2, 6, 6, grad=True))
    check(model.eval(), tensor(2, 2, 6, 6))


def test_batch_norm_of_a_transposed_tensor():
    """Its result and gradient are contiguous; what follows is recorded accordingly."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.norm, self.after = torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8)

        def forward(self, x):
            return self.after(self.norm(self.before(x).transpose(1, 2)).transpose(1, 2))

    check(Model(), tensor(2, 5, 8, grad=True))
    check(Model().eval(), tensor(2, 5, 8, grad=True))


def test_a_gradient_that_is_not_laid_out_as_its_fake_kernel_says():
    """`softplus_backward` follows its first argument; the fake kernel says contiguous."""

    def program(x, w):
        gates = torch.nn.functional.softplus(x.view(2, 3, 4))
        return (gates.transpose(1, 2).contiguous() * w).sum(-1)

    check(program, tensor(2, 12, grad=True), tensor(2, 4, 3))


@pytest.mark.parametrize("kind", ["MultiheadAttention", "TransformerEncoderLayer", "LSTM", "GRU", "Embedding"])
def test_module(kind):
    if kind == "MultiheadAttention":
        check(torch.nn.MultiheadAttention(8, 2, batch_first=True), *(tensor(2, 5, 8, seed=n) for n in range(3)))
    elif kind == "TransformerEncoderLayer":
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        check(layer, tensor(2, 5, 8, grad=True))
    elif kind == "Embedding":
        check(torch.nn.Embedding(10, 4, padding_idx=0), torch.tensor([[0, 1], [2, 9]]))
    else:
        # The fake kernel that torch 2.11 has for oneDNN's LSTM gives the states a dimension too many.
        lowered = kind == "GRU" or torch.__version__ >= "2.12"
        check(getattr(torch.nn, kind)(4, 8, batch_first=True), tensor(2, 5, 4, grad=True), lowered=lowered)


class Layers(torch.nn.Module):
    def __init__(self, count=4):
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer() for _ in range(count))
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        every = []
        for layer in self.layers:
            x = layer(x)
            every.append(x)
        return self.head(x), every


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.up, self.down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

    def forward(self, x):
        h = self.norm(x)
        h = F.gelu(self.up(h)).mul(0.5)
        h = F.dropout(self.down(h), 0.2, self.training)
        h = h.clamp(-5, 5).sin() + h.cos()
        return x + h


@pytest.mark.parametrize("grad", [False, True])
def test_equal_layers_are_one_region(grad):
    compiled = check(Layers(), tensor(2, 5, 8, grad=grad))
    final = compiled.forward_traces[-1]
    assert [region.name for region in final.regions()] == ["layers_forward", "block_forward"] or len(
        final.regions()
    ) == 3
    assert len(final.ops) >= 5


def test_a_layer_that_changes_what_an_earlier_one_made():
    class Changes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(Layer() for _ in range(3))

        def forward(self, x):
            x = x * 1
            view = x[0]
            for layer in self.layers:
                x += layer(x.clone())
            return x, view * 2

    check(Changes(), tensor(2, 5, 8, grad=True))


# State -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("grad", [False, True])
def test_autocast(grad):
    def function(x, w):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = x @ w
            with torch.autocast("cpu", enabled=False):
                z = x @ w
        return y, z, y @ w.to(y.dtype)

    check(function, tensor(3, 4, grad=grad), tensor(4, 4, grad=grad, seed=1))


def test_ambient_autocast_is_applied_once():
    def function(x, w):
        return x @ w, (x @ w).exp()

    x, w = tensor(3, 4, grad=True), tensor(4, 4, grad=True, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled, _ = compile_function(function, x, w)
        ours, theirs = compiled.run(x, w), function(x, w)
        assert torch.is_autocast_enabled("cpu")
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_inference_mode():
    def function(x, w):
        return (x @ w).relu()

    with torch.inference_mode():
        check(function, tensor(3, 4), tensor(4, 4, grad=True, seed=1))


@pytest.mark.parametrize("grad", [False, True])
def test_dropout_draws_the_numbers_that_eager_draws(grad):
    def function(x):
        y = F.dropout(x * 2, 0.5)
        return F.dropout(y, 0.1), torch.rand(3), torch.randn_like(x)

    check(function, tensor(6, 7, grad=grad))


def test_compiling_draws_no_random_numbers():
    torch.manual_seed(0)
    compile_function(lambda x: x.clone().exponential_() + F.dropout(x, 0.5), tensor(3))
    drawn = torch.rand(3)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, torch.rand(3), rtol=0, atol=0)


# Functions of functions --------------------------------------------------------------------------------------------
class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 3 * x


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def test_custom_function_keeps_its_own_gradient():
    check(lambda x: Doubled.apply(x.sin()).cos(), tensor(3, 4, grad=True))


def test_gradient_reversal():
    check(lambda x: (Reversed.apply(x), x * 2), tensor(3, 4, grad=True), lowered=False)
    check(lambda x: Reversed.apply(x.sin()) + x, tensor(3, 4, grad=True))


def test_an_operator_without_a_derivative_formula_runs_as_it_stands():
    """PyTorch differentiates what its kernel calls, with a warning; lowered there would be no gradient."""
    library = torch.library.Library("thunder_lower_tests", "FRAGMENT")
    library.define("tripled(Tensor x) -> Tensor")
    library.impl("tripled", lambda x: x * 3, "CPU")
    library.impl("tripled", torch.empty_like, "Meta")
    try:
        with pytest.warns(UserWarning, match="an autograd kernel was not registered"):
            check(lambda x: torch.ops.thunder_lower_tests.tripled(x * 1) + x, tensor(3, grad=True), lowered=False)
    finally:
        library._destroy()


def test_checkpoint_is_computed_again_in_backward():
    def inner(x, w):
        h = (x @ w).relu()
        return F.dropout(h @ w, 0.3).sin()

    def function(x, w):
        for _ in range(3):
            x = checkpointed(inner, x, w)
        return x.sum()

    compiled = check(function, tensor(4, 8, grad=True), tensor(8, 8, grad=True, seed=1))
    forward, backward = compiled.forward_traces[-1], compiled.backward_traces[-1]
    saved = sum(var.value.numel() for var in forward.output_vars())
    assert saved <= 1 + 2 * 4 * 8 + 3 * 4 * 8, "the results of the regions, and the dropout masks"
    assert str(backward).count("aten.mm") == 3 * 2 + 3 * 4
    with torch.no_grad():
        check(function, tensor(4, 8), tensor(8, 8, seed=1))


def test_gradients_inside_the_program():
    def function(x, w):
        with torch.enable_grad():
            y = (x * w).sin().sum()
            (gradient,) = torch.autograd.grad(y, w, create_graph=True)
        return gradient * x, y

    check(function, tensor(3, grad=True), tensor(3, grad=True, seed=1))


# The call ----------------------------------------------------------------------------------------------------------
def model_and_loss(x, w):
    logits = (x @ w).tanh()
    return logits.pow(2).mean(), logits


def test_backward_of_one_output_only():
    compiled, _ = compile_function(model_and_loss, tensor(4, 3), tensor(3, 3, grad=True))
    x, w = tensor(4, 3), tensor(3, 3, grad=True)
    compiled.run(x, w)[0].backward()
    (expected,) = torch.autograd.grad(model_and_loss(x, w)[0], w)
    torch.testing.assert_close(w.grad, expected)


def test_gradients_that_do_not_exist_take_no_memory():
    compiled, _ = compile_function(model_and_loss, tensor(4, 3), tensor(3, 3, grad=True))
    text = str(compiled.backward_traces[-1])
    assert "aten.full" not in text and "block_backward_ox" in text
    for wanted in ((0,), (1,), (0, 1)):
        x, w = tensor(4, 3), tensor(3, 3, grad=True)
        ours, theirs = (
            torch.autograd.grad([outputs[n] for n in wanted], w, [torch.ones_like(outputs[n]) for n in wanted])
            for outputs in (compiled.run(x, w), model_and_loss(x, w))
        )
        torch.testing.assert_close(ours, theirs)


def test_calls_before_backward_and_retained_graphs():
    compiled, _ = compile_function(model_and_loss, tensor(4, 3), tensor(3, 3, grad=True))
    w = tensor(3, 3, grad=True)
    losses = [compiled.run(tensor(4, 3, seed=n), w)[0] for n in range(3)]
    losses[1].backward(retain_graph=True)
    losses[1].backward()
    (losses[0] + losses[2]).backward()
    expected = w.detach().clone().requires_grad_()
    for n, factor in enumerate((1, 2, 1)):
        (factor * model_and_loss(tensor(4, 3, seed=n), expected)[0]).backward()
    torch.testing.assert_close(w.grad, expected.grad)
    with pytest.raises(RuntimeError, match="second time"):
        losses[1].backward()


def test_tangents_of_any_layout():
    compiled, _ = compile_function(model_and_loss, tensor(4, 3), tensor(3, 3, grad=True))
    x, w = tensor(4, 3), tensor(3, 3, grad=True)
    _, logits = compiled.run(x, w)
    logits.sum().backward()
    _, logits = compiled.run(x, w)
    logits.t().contiguous().sum().backward()
    (expected,) = torch.autograd.grad((x @ w).tanh().sum(), w)
    torch.testing.assert_close(w.grad, 2 * expected)


def test_second_derivatives_are_an_error_and_never_wrong():
    compiled, _ = compile_function(model_and_loss, tensor(4, 3), tensor(3, 3, grad=True))
    w = tensor(3, 3, grad=True)
    (gradient,) = torch.autograd.grad(compiled.run(tensor(4, 3), w)[0], w, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


def test_saved_tensor_hooks_see_what_is_saved():
    compiled, _ = compile_function(model_and_loss, tensor(4, 3), tensor(3, 3, grad=True))
    x, w = tensor(4, 3), tensor(3, 3, grad=True)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        loss = compiled.run(x, w)[0]
    loss.backward()
    assert packed
    torch.testing.assert_close(w.grad, torch.autograd.grad(model_and_loss(x, w)[0], w)[0])


def test_an_output_changed_in_place_is_noticed_by_backward():
    def function(x):
        y = x @ x.t()
        return y, y.view(-1).sin()

    compiled, _ = compile_function(function, tensor(3, 4, grad=True))
    x = tensor(3, 4, grad=True)
    y, z = compiled.run(x)
    y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (y.sum() + z.sum()).backward()


def test_side_effects_on_autograd_run_as_they_stand():
    seen = []

    def function(x):
        y = x * 2
        y.register_hook(seen.append)
        return y.sin()

    compiled, _ = compile_function(function, tensor(3, grad=True))
    assert any("register_hook" in note for note in compiled.notes)
