"""`thunder.grad`: what `torch.func.grad` gives, for every form of call."""

import pytest
import torch
import torch.nn as nn

import thunder
from thunder.errors import OptionError, UnsupportedError


def cubed(x):
    return (x**3).sum()


def test_positions():
    def program(x, y):
        return (x * y).sum()

    x, y = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(thunder.grad(program)(x, y), y)
    torch.testing.assert_close(thunder.grad(program, argnums=-1)(x, y), x)
    torch.testing.assert_close(thunder.grad(program, argnums=(1, 0))(x, y), (x, y))


def test_trees_and_what_the_value_does_not_depend_on():
    tree = {"w": torch.randn(2, 3), "b": [torch.randn(3), torch.randn(2)]}

    def program(tree, x):
        return (x @ tree["w"] + tree["b"][0]).tanh().sum()

    x = torch.randn(4, 2)
    found, expected = thunder.grad(program)(tree, x), torch.func.grad(program)(tree, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(thunder.grad(lambda x: torch.tensor(3.0))(x), torch.zeros(4, 2))


def test_the_rest_of_the_result():
    gradient, rest = thunder.grad(lambda x: ((x**2).sum(), {"h": x * 3, "n": 4}), has_aux=True)(torch.ones(3))
    torch.testing.assert_close(gradient, torch.full((3,), 2.0))
    torch.testing.assert_close(rest["h"], torch.full((3,), 3.0))
    assert rest["n"] == 4 and not rest["h"].requires_grad


def test_gradients_of_gradients():
    x = torch.tensor(2.0)
    torch.testing.assert_close(thunder.grad(thunder.grad(thunder.grad(lambda x: x**4)))(x), 24 * x)
    y = torch.randn(3)
    torch.testing.assert_close(thunder.grad(lambda y: thunder.grad(cubed)(y).sum())(y), 6 * y)
    torch.testing.assert_close(thunder.jit(lambda y: thunder.grad(cubed)(y) * 2)(y), 6 * y**2)
    rows = torch.randn(4, 3)
    torch.testing.assert_close(torch.func.vmap(thunder.grad(cubed))(rows), 3 * rows**2)
    y.requires_grad_()
    (second,) = torch.autograd.grad(thunder.grad(cubed)(y).sum(), y)
    torch.testing.assert_close(second, 6 * y.detach())


def test_parameters_that_the_function_reads_get_their_part():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)

    def value(x):
        return model(x).sum()

    losses = [transform(value)(x).pow(2).sum() + value(x) for transform in (thunder.grad, torch.func.grad)]
    found, expected = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert not thunder.grad(value)(x).requires_grad


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (lambda: thunder.grad(lambda x: x), (torch.ones(3),), "scalar"),
        (lambda: thunder.grad(lambda x: 3.0), (torch.ones(3),), "scalar"),
        (lambda: thunder.grad(lambda x: x.sum(), has_aux=True), (torch.ones(3),), "pair"),
        (lambda: thunder.grad(lambda x: x.sum(), argnums=3), (torch.ones(3),), "argument 3"),
        (lambda: thunder.grad(lambda x: x.sum(), argnums="x"), (torch.ones(3),), "no position"),
        (lambda: thunder.grad(lambda x: torch.tensor(1.0)), (3,), "argument 0"),
    ],
)
def test_errors(make, args, message):
    with pytest.raises(OptionError, match=message):
        make()(*args)


def test_compiled_functions_refuse_to_be_transformed():
    compiled, x = thunder.jit(cubed), torch.randn(4, 3)
    compiled(x)  # a program that fits must not answer either: it would lose what is differentiated
    with torch.autograd.forward_ad.dual_level(), pytest.raises(UnsupportedError, match=r"thunder.jit\(torch.func"):
        compiled(torch.autograd.forward_ad.make_dual(x, x))
    for transform in (torch.func.vmap, torch.func.grad):
        with pytest.raises(UnsupportedError, match=r"thunder.jit\(torch.func.vmap\(f\)\)"):
            transform(compiled)(x)
    torch.testing.assert_close(thunder.jit(torch.func.vmap(cubed))(x), (x**3).sum(1))


def test_attributes_of_a_callable_do_not_become_those_of_its_compiled_form():
    class Callable:
        options, entries = "mine", None

        def __init__(self):
            self.options = "mine"
            self.function = None

        def __call__(self, x):
            return x + 1

    torch.testing.assert_close(thunder.jit(Callable())(torch.ones(2)), torch.full((2,), 2.0))
