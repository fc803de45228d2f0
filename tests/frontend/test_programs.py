"""Programs of every kind, compiled for the eager executor and for the default ones, against plain Python."""

import copy
import dataclasses
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import thunder
from thunder.errors import DataDependentError, OptionError, RecompileWarning, SharpEdgeError, SharpEdgeWarning
from thunder.trace import run_source, trace_constants


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Block(nn.Module):
    def __init__(self, width=8, p=0.0):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(p)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


def train_step(model, x):
    model.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def test_training_step_and_buffers(executors):
    model, x = Block(), torch.randn(16, 8)
    compiled = thunder.jit(copy.deepcopy(model), executors=executors)
    for _ in range(3):
        expected, expected_grads = train_step(model, x)
        actual, actual_grads = train_step(compiled, x)
        same(actual, expected)
        same(actual_grads, expected_grads)
    assert compiled.calls == model.calls == 3
    same(dict(compiled.named_buffers()), dict(model.named_buffers()))
    model.eval(), compiled.eval()
    same(compiled(x), model(x))


def test_dropout_has_the_mask_of_eager():
    model, x = Block(p=0.5), torch.randn(16, 8)
    compiled = thunder.jit(copy.deepcopy(model), executors=["eager"])
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = model(x)
        torch.manual_seed(seed)
        same(compiled(x), expected)


def test_dropout_drops_and_scales(executors):
    compiled = thunder.jit(lambda x: F.dropout(x, 0.25), executors=executors)
    x = torch.ones(4000, requires_grad=True)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second)
    assert abs((first == 0).float().mean().item() - 0.25) < 0.05
    first.sum().backward()
    same(x.grad, first.detach())


def test_two_calls_before_backward_and_accumulation(executors):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    compiled = thunder.jit(copy.deepcopy(model), executors=executors)
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    for module in (model, compiled):
        (module(x).sum() + 2 * module(y).sum()).backward()
        module(x).sum().backward()
    same([p.grad for p in compiled.parameters()], [p.grad for p in model.parameters()])


def test_requires_grad_mix_tied_weights_and_hooks(executors):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 6)
            self.head = nn.Linear(6, 10, bias=False)
            self.head.weight = self.embed.weight
            self.scale = nn.Parameter(torch.ones(6), requires_grad=False)

        def forward(self, ids):
            return self.head(self.embed(ids) * self.scale)

    model = Tied()
    compiled_model = copy.deepcopy(model)
    compiled = thunder.jit(compiled_model, executors=executors)
    seen = []
    ids = torch.tensor([[1, 2, 3]])
    for module in (model, compiled):
        module.embed.weight.register_hook(lambda grad: seen.append(grad.clone()) or grad * 2)
        module(ids).square().sum().backward()
    same(seen[1], seen[0])
    same(compiled.embed.weight.grad, model.embed.weight.grad)
    assert compiled.scale.grad is None


def test_outputs_in_any_structure(executors):
    @dataclasses.dataclass
    class Result:
        value: torch.Tensor
        others: dict

    def program(x):
        h = torch.sin(x)
        return Result(h, {"list": [h, x], "tuple": (h.sum(), 3, "name"), "input": x})

    compiled = thunder.jit(program, executors=executors)
    x = torch.randn(4)
    for _ in range(2):
        result = compiled(x)
        expected = program(x)
        assert type(result) is Result
        same(result.value, expected.value)
        assert result.others["list"][0] is result.value and result.others["input"] is x
        assert result.others["tuple"][1:] == (3, "name")


def test_in_place_and_aliases(executors):
    def program(x, y):
        x.add_(1)
        view = y[1:]
        view.mul_(2)
        return x, view, y.t()

    compiled = thunder.jit(program, executors=executors)
    for _ in range(2):
        x, y = torch.randn(3), torch.randn(3, 2)
        x2, y2 = x.clone(), y.clone()
        expected, actual = program(x, y), compiled(x2, y2)
        same(actual, expected)
        same((x2, y2), (x, y))
        assert actual[0] is x2
        assert actual[1].untyped_storage().data_ptr() == y2.untyped_storage().data_ptr()
        actual[2].zero_()
        assert y2.abs().sum() == 0


def test_in_place_on_intermediates_with_gradients(executors):
    def program(x, w):
        h = x @ w
        h += 1
        h[0] = h[0] * 2
        h.relu_()
        return h.sum()

    compiled = thunder.jit(program, executors=executors)
    x, w = torch.randn(3, 4), torch.randn(4, 5, requires_grad=True)
    w2 = w.detach().clone().requires_grad_()
    program(x, w).backward()
    compiled(x, w2).backward()
    same(w2.grad, w.grad)


def test_grad_modes_and_detach(executors):
    def program(x):
        with torch.no_grad():
            a = x * 2
        b = (x * 3).detach()
        with torch.enable_grad():
            c = x * x
        return a, b, c

    compiled = thunder.jit(program, executors=executors)
    x = torch.randn(3, requires_grad=True)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            expected, actual = program(x), compiled(x)
        same(actual, expected)
        assert [t.requires_grad for t in actual] == [t.requires_grad for t in expected]
    actual[2].sum().backward()
    same(x.grad, 2 * x.detach())


def test_inference_mode(executors):
    model = nn.Linear(4, 4)
    compiled = thunder.jit(model, executors=executors)
    x = torch.randn(2, 4)
    with torch.inference_mode():
        result = compiled(x)
        assert result.is_inference()
        same(result, model(x))
    assert compiled(x).requires_grad


def test_autocast_inside_and_outside(executors):
    linear = nn.Linear(8, 8)

    def program(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = linear(x)
        return h, h.float() + 1

    compiled = thunder.jit(program, executors=executors)
    x = torch.randn(2, 8)
    expected, actual = program(x), compiled(x)
    assert actual[0].dtype is torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)
    outside = thunder.jit(linear, executors=executors)
    assert outside(x).dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert outside(x).dtype is torch.bfloat16
    assert thunder.cache_misses(outside) == 2


def test_checkpoint(executors):
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))

    def program(x):
        return checkpoint(block, x, use_reentrant=False).sum()

    compiled = thunder.jit(program, executors=executors)
    x = torch.randn(2, 6, requires_grad=True)
    program(x).backward()
    expected = [x.grad.clone(), *(p.grad.clone() for p in block.parameters())]
    x.grad = None
    block.zero_grad()
    compiled(x).backward()
    same([x.grad, *(p.grad for p in block.parameters())], expected)


def test_checkpoint_of_an_operation_that_answers_its_argument(executors):
    def block(x):
        return torch.nn.functional.dropout(torch.relu(x * 2), training=False) * 3

    compiled = thunder.jit(lambda x: checkpoint(block, x, use_reentrant=False).sum(), executors=executors)
    x = torch.randn(2, 6, requires_grad=True)
    compiled(x).backward()
    same(x.grad, (x > 0) * 6.0)


def test_custom_autograd_function(executors):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.factor = factor
            ctx.save_for_backward(x)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * ctx.factor * 10 + 0 * x, None

    compiled = thunder.jit(lambda x: Double.apply(x.sin(), 3.0).sum(), executors=executors)
    x = torch.randn(4, requires_grad=True)
    compiled(x).backward()
    same(x.grad, 30 * x.detach().cos())


def test_global_closure_and_container_effects(executors):
    log, table = [], {"count": 0}
    total = 0

    def program(x):
        nonlocal total
        total += 1
        log.append(x.sum())
        table["count"] += 1
        table["last"] = h = x * 2
        return h

    compiled = thunder.jit(program, executors=executors, recompile_limit=4)
    x = torch.randn(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecompileWarning)
        results = [compiled(x) for _ in range(6)]
    assert total == table["count"] == len(log) == 6
    assert table["last"] is results[-1]
    same(log, [x.sum()] * 6)


def test_acquisition_leaves_no_trace_when_it_fails(executors):
    model = Block()
    state = copy.deepcopy(model.state_dict())

    def program(x):
        model.calls = 77
        h = model(x)
        return h if h.sum() > 0 else -h

    compiled = thunder.jit(program, executors=executors)
    with pytest.raises(DataDependentError, match="test_programs.py"):
        compiled(torch.randn(4, 8))
    assert model.calls == 0
    same(model.state_dict(), state)
    assert model(torch.randn(4, 8)).shape == (4, 8)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: list(range(x.sum().long())),
        lambda x: x.numpy(),
        lambda x: x * (x.sum().item() > 0),
        lambda x: print([x]),
    ],
)
def test_value_reads_name_the_line_and_the_remedy(read):
    with pytest.raises(DataDependentError) as caught:
        thunder.jit(read, executors=["eager"])(torch.randn(3))
    assert "test_programs.py" in str(caught.value) and "remedy" in str(caught.value)


def test_on_break_eager_warns_once_and_is_right():
    compiled = thunder.jit(lambda x: x * 2 if x.sum() > 0 else x * 3, executors=["eager"], on_break="eager")
    with pytest.warns(SharpEdgeWarning, match="test_programs.py"):
        same(compiled(torch.ones(2)), 2 * torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(compiled(-torch.ones(2)), -3 * torch.ones(2))


def test_sharp_edges():
    def program(x):
        print("hello")
        return x + 1

    with pytest.raises(SharpEdgeError, match="print"):
        thunder.jit(program, executors=["eager"], sharp_edges="error")(torch.ones(2))
    with pytest.warns(SharpEdgeWarning, match="print"):
        thunder.jit(program, executors=["eager"], sharp_edges="warn")(torch.ones(2))
    same(thunder.jit(program, executors=["eager"])(torch.ones(2)), 2 * torch.ones(2))


def test_errors_are_those_of_pytorch_with_the_line(executors):
    linear = nn.Linear(3, 4)

    def program(x):
        return linear(x)

    with pytest.raises(RuntimeError) as expected:
        program(torch.randn(2, 5))
    with pytest.raises(RuntimeError) as actual:
        thunder.jit(program, executors=executors)(torch.randn(2, 5))
    assert str(expected.value) in str(actual.value)
    assert any("test_programs.py" in note for note in actual.value.__notes__)


def test_module_surface_is_shared():
    model = Block()
    compiled = thunder.compile(model)
    assert isinstance(compiled, Block) and isinstance(compiled, nn.Module)
    assert list(compiled.state_dict()) == list(model.state_dict())
    compiled.train(False)
    assert not model.training and not model.norm.training
    compiled.to(torch.float64)
    assert model.up.weight.dtype is torch.float64
    x = torch.randn(4, 8, dtype=torch.float64)
    same(compiled(x), model(x))
    twin = copy.deepcopy(compiled)
    assert type(twin) is type(compiled) and twin.up.weight is not model.up.weight
    same(twin(x), model(x))
    same(pickle.loads(pickle.dumps(model))(x), model(x))
    same(pickle.loads(pickle.dumps(compiled))(x), model(x))


def test_parameters_may_be_replaced_frozen_and_cast(executors):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    compiled = thunder.jit(model, executors=executors)
    x = torch.randn(2, 4)
    same(compiled(x), model(x))
    model[0].weight = nn.Parameter(torch.randn(4, 4))
    same(compiled(x), model(x))
    model[0].weight.data = torch.randn(4, 4)
    same(compiled(x), model(x))
    with torch.no_grad():
        model[0].weight.mul_(3)
    same(compiled(x), model(x))
    model.requires_grad_(False)
    assert not compiled(x).requires_grad
    model[1] = nn.Tanh()
    same(compiled(x), model(x))
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    same(compiled(x), model(x))


def test_recompile_limit_warns_with_the_guard_and_stays_right():
    compiled = thunder.jit(lambda x, n: x * n, executors=["eager"], recompile_limit=2)
    x = torch.randn(3)
    same(compiled(x, 1.0), x)
    same(compiled(x, 2.0), 2 * x)
    with pytest.warns(RecompileWarning, match="n == "):
        same(compiled(x, 3.0), 3 * x)
    same(compiled(x, 4.0), 4 * x)
    assert thunder.compile_stats(compiled).plain_calls == 2


def test_cache_modes():
    calls = []

    def program(x, n):
        calls.append(1)
        return x + n

    x = torch.zeros(2)
    same_input = thunder.jit(program, executors=["eager"], cache="same input")
    same(same_input(x, 1), x + 1)
    same(same_input(x, 2), x + 1)
    fresh = thunder.jit(program, executors=["eager"], cache="no caching")
    same(fresh(x, 1), x + 1)
    same(fresh(x, 2), x + 2)
    assert thunder.cache_misses(fresh) == 2 and thunder.cache_hits(fresh) == 0


@pytest.mark.parametrize(
    "options",
    [{"cache": "sometimes"}, {"sharp_edges": "maybe"}, {"executors": ["no such executor"]}, {"on_break": "?"}],
)
def test_unknown_options_list_the_known_ones(options):
    with pytest.raises(OptionError, match="known"):
        thunder.jit(lambda x: x, **options)


def test_unknown_plugin_and_recipe():
    with pytest.raises(OptionError, match="known"):
        thunder.compile(nn.Linear(2, 2), plugins="nothing")
    with pytest.raises(OptionError, match="known"):
        thunder.compile(nn.Linear(2, 2), recipe="nothing")


def test_threads_get_right_answers(executors):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval()
    compiled = thunder.jit(model, executors=executors)
    inputs = [torch.randn(size, 4) for size in (1, 2, 3, 4)]
    failures = []

    def work(x):
        for _ in range(20):
            with torch.no_grad():
                if not torch.allclose(compiled(x), model(x), atol=1e-5):
                    failures.append(x.shape)

    threads = [threading.Thread(target=work, args=(x,)) for x in inputs * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_printed_trace_runs_alone(executors):
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)).eval()
    compiled = thunder.jit(model, executors=executors)
    x = torch.randn(2, 4)
    with torch.no_grad():
        expected = compiled(x)
        inputs = [x if var.name == "input" else dict(model.named_parameters())[_parameter(model, var.name)]
                  for var in thunder.last_traces(compiled)[0].inputs]  # fmt: skip
        for trace in thunder.last_traces(compiled):
            function = run_source(str(trace), trace.name, trace_constants(trace))
            same(function(*inputs)[0], expected)


def _parameter(model, name):
    return next(full for full, _ in model.named_parameters() if "x_" + full.replace(".", "_") == name)


def test_values_of_small_arguments_are_guarded():
    def program(x, grid, mask):
        rows, columns = grid.tolist()
        return x.reshape(rows, columns).sum(0), x[mask]

    compiled = thunder.jit(program, executors=["eager"])
    x, mask = torch.randn(6), torch.tensor([True, False, True, True, False, True])
    for grid, misses in (((2, 3), 1), ((2, 3), 1), ((3, 2), 2), ((6, 1), 2)):  # from the second on symbols
        arguments = (x, torch.tensor(grid), mask)
        same(compiled(*arguments), program(*arguments))
        assert thunder.cache_misses(compiled) == misses
    same(compiled(x, torch.tensor((2, 3)), ~mask), program(x, torch.tensor((2, 3)), ~mask))


def test_sizes_that_vary_become_symbols():
    def program(x, y):
        count = x.shape[0]
        if count > 4:
            x = x + 1
        return torch.cat([x, y]).reshape(-1, 3) * count, count + 1

    compiled = thunder.compile(program, recipe="eager")
    for count in (5, 6, 7, 8, 20):
        arguments = (torch.randn(count, 3), torch.randn(count + 1, 3))
        same(compiled(*arguments), program(*arguments))
    assert thunder.cache_misses(compiled) == 2
    assert "x.shape[0] > 4" in thunder.last_prologue(compiled)
    arguments = (torch.randn(3, 3), torch.randn(3, 3))
    same(compiled(*arguments), program(*arguments))
    assert thunder.cache_misses(compiled) == 3


def test_texts_of_tensors_may_be_made_but_not_kept():
    compiled = thunder.jit(lambda x: (f"sum {x.sum()}", x * 2)[1], executors=["eager"])
    same(compiled(torch.ones(2)), 2 * torch.ones(2))
    with pytest.raises(DataDependentError, match="text"):
        thunder.jit(lambda x: f"sum {x.sum()}", executors=["eager"])(torch.ones(2))


def test_custom_function_of_several_arguments(executors):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, mask, dim):
            ctx.save_for_backward(mask)
            return x * 2.0

        @staticmethod
        def backward(ctx, grad):
            return grad * 100, None, None

    compiled = thunder.jit(lambda x, mask: Scaled.apply(x * 1, mask, -1).sum(), executors=executors)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    compiled(x, torch.tensor([1, 0])).backward()
    same(x.grad, torch.full((2,), 100.0))
    assert len(thunder.last_traces(compiled)[0].ops) == 3
