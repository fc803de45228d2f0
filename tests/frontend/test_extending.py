"""What users add to PyTorch, inside of a compiled function: operators, autograd Functions, attention, classes."""

import os
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.testing._internal.two_tensor import TwoTensor

import thunder
from thunder.acquire import acquire
from thunder.errors import UnsupportedError

FACTOR = 2.0


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[["eager"], None], ids=["eager", "default"])
def executors(request):
    return request.param


def agrees(program, *arguments, executors=("eager",)):
    """Values, and gradients of floating-point arguments, of two calls; answers the compiled function."""
    compiled = thunder.jit(program, executors=executors and list(executors))
    for _ in range(2):
        found = []
        for function in (program, compiled):
            leaves = [argument.detach().clone().requires_grad_(argument.requires_grad) for argument in arguments]
            result = function(*leaves)
            if result.requires_grad:
                result.pow(2).sum().backward()
            found.append([result.detach(), *(leaf.grad for leaf in leaves)])
        same(*found)
    assert thunder.compile_stats(compiled).plain_calls == 0
    return compiled


@torch.library.custom_op("thunder_extending::scale", mutates_args=())
def scale(x: torch.Tensor, by: float) -> torch.Tensor:
    return x * by


scale.register_fake(lambda x, by: torch.empty_like(x))


@torch.library.custom_op("thunder_extending::odd_scale", mutates_args=())
def odd_scale(x: torch.Tensor, by: float) -> torch.Tensor:
    return x * by


odd_scale.register_fake(lambda x, by: torch.empty_like(x))
odd_scale.register_autograd(
    lambda ctx, gradient: (gradient * ctx.by * 10, None),  # ten times too much, to be told from x * by
    setup_context=lambda ctx, inputs, output: setattr(ctx, "by", inputs[1]),
)


@torch.library.custom_op("thunder_extending::increment_", mutates_args={"x"})
def increment_(x: torch.Tensor) -> None:
    x.add_(1)


class Weighted(torch.autograd.Function):
    @staticmethod
    def forward(context, x, by):
        context.save_for_backward(x)
        context.by = by
        return x * by

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        return gradient * context.by * 7 + x, None


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * FACTOR

    @staticmethod
    def backward(context, gradient):
        return gradient * FACTOR


def test_custom_operator(executors):
    library = torch.ops.thunder_extending
    agrees(lambda x: scale(x.sin(), 2.0) + library.scale(x, 3.0), torch.randn(3), executors=executors)


def test_custom_operator_with_its_own_gradient(executors):
    agrees(lambda x: odd_scale(x, 2.0) * x, torch.randn(3, requires_grad=True), executors=executors)


def test_custom_operator_that_changes_its_argument(executors):
    def program(x):
        y = x * 2
        increment_(y)
        increment_(x)
        return y + x

    agrees(program, torch.randn(3), executors=executors)


def test_autograd_function(executors):
    agrees(lambda x: Weighted.apply(x.sin(), 3.0) * 2, torch.randn(3, requires_grad=True), executors=executors)


def test_state_that_an_autograd_function_reads(monkeypatch, executors):
    compiled, x = thunder.jit(lambda x: Scaled.apply(x), executors=executors), torch.randn(3)
    same(compiled(x), x * 2)
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    same(compiled(x), x * 5)


def test_scaled_dot_product_attention(executors):
    query = torch.randn(2, 3, 5, 8, requires_grad=True)
    agrees(lambda q: F.scaled_dot_product_attention(q, q * 2, q, is_causal=True), query, executors=executors)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    agrees(lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=mask, scale=0.3), query, executors=executors)


SLOPES = torch.tensor([0.5, 0.25])


@pytest.mark.filterwarnings("ignore")
def test_flex_attention():
    query = torch.randn(1, 2, 16, 8)
    agrees(lambda q: flex_attention(q, q, q, score_mod=lambda s, b, h, i, k: s + (i - k) * 0.1), query)
    mask = create_block_mask(lambda b, h, i, k: i >= k, 1, 1, 16, 16, device="cpu", BLOCK_SIZE=16)
    agrees(lambda q: flex_attention(q, q, q, block_mask=mask), query)
    slope = [0.1]
    program = lambda q: flex_attention(q, q, q, score_mod=lambda s, b, h, i, k: s + (i - k) * slope[0])  # noqa: E731
    compiled = agrees(program, query)
    slope[0] = 0.7
    same(compiled(query), program(query))
    agrees(lambda q: flex_attention(q, q, q, score_mod=lambda s, b, h, i, k: s + SLOPES[h] * (i - k)), query)


def test_flex_attention_with_tensors_of_the_program_is_refused():
    def program(q):
        bias = q.mean()
        return flex_attention(q, q, q, score_mod=lambda s, b, h, i, k: s + bias)

    with pytest.raises(UnsupportedError, match="flex attention holds a tensor"):
        thunder.jit(program, executors=["eager"])(torch.randn(1, 2, 16, 8))


def test_einops(executors):
    einops = pytest.importorskip("einops")

    def program(x):
        y = einops.rearrange(x, "a (b c) -> b a c", b=2) + einops.repeat(x[:, 0], "a -> b a c", b=2, c=2)
        return y + einops.reduce(x, "a b -> a", "mean")[None, :, None]

    agrees(program, torch.randn(3, 4, requires_grad=True), executors=executors)


class TaggedParameter(nn.Parameter):
    pass


class Tagged(torch.Tensor):
    pass


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = TaggedParameter(torch.randn(4))
        self.weight.tag = 3.0

    def forward(self, x):
        return x * self.weight * self.weight.tag if isinstance(self.weight, TaggedParameter) else x


def test_subclass_of_parameter(executors):
    model = Model()
    compiled, x = thunder.jit(model, executors=executors), torch.randn(3, 4)
    same(compiled(x), model(x))
    model.weight.tag = 5.0
    same(compiled(x), model(x))
    compiled(x).sum().backward()
    same(model.weight.grad, x.sum(0) * 5)


@pytest.mark.parametrize(
    "tensor", [torch.ones(2).as_subclass(Tagged), TwoTensor(torch.ones(2), torch.ones(2)), torch.eye(2).to_sparse()]
)
def test_tensors_that_decide_what_calls_do_are_refused(tensor):
    with pytest.raises(UnsupportedError, match="x is a .*(Tagged|TwoTensor|sparse_coo).*(?s:.)*remedy"):
        thunder.jit(lambda x: x * 2, executors=["eager"])(tensor)


def test_a_parameter_made_by_the_program_is_a_new_leaf(executors):
    def program(x):
        parameter = nn.Parameter(x * 2)
        return (parameter * parameter * x).sum(), parameter

    compiled, x, made = thunder.jit(program, executors=executors), torch.randn(3), []
    for _ in range(2):
        results = [program(x), compiled(x)]
        for value, parameter in results:
            assert type(parameter) is nn.Parameter and parameter.is_leaf and parameter.requires_grad
            value.backward()
        same([value.detach() for value, _ in results][0], [value.detach() for value, _ in results][1])
        same(results[0][1].grad, results[1][1].grad)
        made.append(results[1][1])
    assert made[0] is not made[1]


def test_a_module_made_by_the_program():
    def program(x):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 2), nn.ReLU())(x)

    x = torch.randn(3, 4)
    same(thunder.jit(program, executors=["eager"])(x), program(x))


def test_grad_as_a_transform():
    x = torch.randn(3)
    same(thunder.grad(lambda a: (a * a).sum(), executors=["eager"])(x), 2 * x)
    same(thunder.grad(lambda a, b: (a * b).sum(), argnums=(0, 1), executors=["eager"])(x, x + 1), (x + 1, x))
    inner = thunder.grad(lambda a: (a * a).sum(), executors=["eager"])
    same(thunder.jit(lambda x: inner(x) + 1, executors=["eager"])(x), 2 * x + 1)


def test_warnings_of_the_program_are_given_once():
    def program(x):
        warnings.warn("careful", stacklevel=1)
        return x + 1

    with pytest.warns(UserWarning, match="careful"):
        same(thunder.jit(program, executors=["eager"])(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels do not run on fake tensors")
def test_triton_operator_is_acquired():
    triton = pytest.importorskip("triton")
    language = triton.language

    @triton.jit
    def add_kernel(a, b, out, count, BLOCK: language.constexpr):
        places = language.program_id(0) * BLOCK + language.arange(0, BLOCK)
        inside = places < count
        language.store(out + places, language.load(a + places, inside) + language.load(b + places, inside), inside)

    @torch.library.triton_op("thunder_extending::add", mutates_args={})
    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(a)
        torch.library.wrap_triton(add_kernel)[(triton.cdiv(out.numel(), 16),)](a, b, out, out.numel(), 16)
        return out

    program = acquire(lambda x: add(x, x.sin()) * 2, (torch.randn(3, 4),), {})
    names = [op.name for op in program.computation.ops]
    assert len(names) == 3 and "add" in names[1]
    assert tuple(program.computation.ops[1].result.value.shape) == (3, 4)
