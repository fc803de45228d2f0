"""State that objects of PyTorch's own classes keep: norms of weights, masks of pruning, distributions, optimizers.

Their methods read modules, dicts and attributes; what is changed between two calls shows in the second, and what they
change is there afterwards.
"""

from __future__ import annotations

import collections

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import thunder


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner = wrap(nn.Linear(4, 4))

    def forward(self, x):
        return self.inner(x)


class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.distributions.Normal(torch.zeros(4), torch.ones(4), validate_args=False)

    def forward(self, x):
        return self.inner.log_prob(x) + self.inner.sample((2,))


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.average = torch.optim.swa_utils.AveragedModel(self.inner)

    def forward(self, x):
        self.average.update_parameters(self.inner)
        return self.average(x).detach()


def pruned(layer: nn.Linear) -> nn.Linear:
    return prune.l1_unstructured(prune.random_unstructured(layer, "weight", 0.5), "weight", 0.3)


CASES = {
    "spectral_norm": (lambda: Wrapped(nn.utils.spectral_norm), ["inner.weight_orig", "inner.weight_u"]),
    "spectral_norm in eval": (lambda: Wrapped(nn.utils.spectral_norm).eval(), ["inner.weight_orig"]),
    "weight_norm": (lambda: Wrapped(nn.utils.weight_norm), ["inner.weight_g"]),
    "parametrized spectral_norm": (
        lambda: Wrapped(parametrizations.spectral_norm),
        ["inner.parametrizations.weight.original", "inner.parametrizations.weight.0._u"],
    ),
    "pruning": (lambda: Wrapped(pruned), ["inner.weight_orig", "inner.weight_mask"]),
    "distribution": (Drawing, ["inner.loc"]),
    "graph module": (lambda: Wrapped(lambda layer: torch.fx.symbolic_trace(nn.Sequential(layer))), ["inner.0.weight"]),
    "averaged model": (Averaged, ["inner.weight"]),
}  # fmt: skip


def replace(model: nn.Module, path: str) -> None:
    """Puts another tensor in the place of one that the model holds."""
    *owners, name = path.split(".")
    owner = model
    for part in owners:
        owner = getattr(owner, part)
    before = getattr(owner, name)
    after = torch.linspace(1.0, 2.0, before.numel()).reshape(before.shape)
    setattr(owner, name, nn.Parameter(after) if isinstance(before, nn.Parameter) else after)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that the model's modules hold, attributes that are neither parameters nor buffers included."""
    found = dict(model.state_dict())
    for name, module in model.named_modules():
        found.update((f"{name}.{key}", value) for key, value in vars(module).items() if isinstance(value, torch.Tensor))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_what_is_replaced_between_calls_is_seen(name):
    make, paths = CASES[name]
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(make())
    compiled = thunder.jit(models[0], executors=["eager"])
    for path in [None, *paths]:
        if path is not None:
            for model in models:
                replace(model, path)
        results = []
        for call in (compiled, models[1]):
            torch.manual_seed(1)
            results.append(call(torch.ones(2, 4)))
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*map(tensors_of, models))
    assert not thunder.compile_stats(compiled).plain_calls


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_optimizer_within_the_program(executors, momentum):
    def make():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=momentum)

        def step(x):
            loss = layer(x).square().sum()
            for parameter, gradient in zip(layer.parameters(), torch.autograd.grad(loss, [*layer.parameters()])):
                parameter.grad = gradient
            optimizer.step()
            return loss.detach()

        return layer, optimizer, step

    (ours, our_optimizer, step), (theirs, their_optimizer, eager_step) = make(), make()
    compiled = thunder.jit(step, executors=executors)
    for rate in (0.1, 0.1, 0.02):
        our_optimizer.param_groups[0]["lr"] = their_optimizer.param_groups[0]["lr"] = rate
        torch.testing.assert_close(compiled(torch.ones(2, 3)), eager_step(torch.ones(2, 3)))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(our_optimizer.state_dict()["state"], their_optimizer.state_dict()["state"])
    assert not thunder.compile_stats(compiled).plain_calls


def test_a_gradient_that_the_program_has_set_is_read():
    weight, made = nn.Parameter(torch.zeros(2)), {}

    def program(x):
        for parameter, gradient in zip([weight], [x * 2]):
            parameter.grad = gradient
        made["leaf"] = torch.zeros(2, requires_grad=True)
        made["leaf"].grad = x + 1
        return weight.grad is not None, weight.grad + 1, made["leaf"].grad

    is_there, sum_, of_leaf = thunder.jit(program, executors=["eager"])(torch.ones(2))
    assert is_there is True
    assert sum_.tolist() == [3, 3] and of_leaf.tolist() == [2, 2] and weight.grad.tolist() == [2, 2]


def test_defaultdict_with_tensors_as_keys():
    weight, state = nn.Parameter(torch.zeros(2)), collections.defaultdict(dict)

    def program(x):
        entry = state[weight]
        if entry.get("sum") is None:
            entry["sum"] = x.clone()
        else:
            entry["sum"] = entry["sum"] + x
        return x

    compiled = thunder.jit(program, executors=["eager"])
    for _ in range(3):
        compiled(torch.ones(2))
    assert [key is weight for key in state] == [True] and state[weight]["sum"].tolist() == [3, 3]


def test_checkpointed_function_hands_out_tensors_in_objects(executors):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(4, 4), []

        def inner(self, x):
            self.last = x.cos()
            return x.sin()

        def block(self, x, scale):
            y = self.layer(x) * scale
            z = checkpoint(self.inner, y, use_reentrant=False)
            self.seen.append(y.detach().sum())
            return {"y": y.tanh(), "aux": [z.sum()]}

        def forward(self, x):
            made = checkpoint(self.block, x, 2.0, use_reentrant=False)
            return made["y"] + made["aux"][0] + self.last.sum() + self.seen[-1]

    torch.manual_seed(0)
    model = Model()
    inputs = [torch.ones(2, 4, requires_grad=True) for _ in range(2)]
    compiled = thunder.jit(model, executors=executors)
    results = [call(x) for call, x in zip((model, compiled), inputs)]
    gradients = [torch.autograd.grad(result.sum(), [x, model.layer.weight]) for result, x in zip(results, inputs)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)
    assert not thunder.compile_stats(compiled).plain_calls


def test_functions_in_a_folder_called_numpy_are_acquired(tmp_path):
    """Only NumPy itself is called as it is."""
    folder = tmp_path / "my_numpy_models"
    folder.mkdir()
    path = folder / "model.py"
    path.write_text("STATE = {'scale': 2}\ndef scaled(x):\n    return x * STATE['scale']\n")
    namespace: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    compiled = thunder.jit(lambda x: namespace["scaled"](x), executors=["eager"])
    assert compiled(torch.ones(1)).item() == 2
    namespace["STATE"]["scale"] = 5
    assert compiled(torch.ones(1)).item() == 5


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.NAdam])
def test_optimizers_that_step_all_tensors_at_once(kind):
    """As they do by default on CUDA: a number for each tensor is then a tensor on the CPU."""
    weights = [[torch.nn.Parameter(torch.ones(3) * k) for k in (1, 2)] for _ in range(2)]
    optimizers = [kind(group, lr=0.1, foreach=True) for group in weights]

    def step(x, group, optimizer):
        for weight in group:
            weight.grad = x * weight.detach()
        optimizer.step()
        return [weight.detach().clone() for weight in group]

    for options in ({}, {"cache": "symbolic values"}):
        compiled = thunder.jit(lambda x: step(x, weights[1], optimizers[1]), executors=["eager"], **options)
        for _ in range(4):
            x = torch.randn(3)
            torch.testing.assert_close(compiled(x), step(x, weights[0], optimizers[0]))
        assert thunder.compile_stats(compiled).plain_calls == 0
