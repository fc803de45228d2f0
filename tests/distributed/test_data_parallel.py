"""DDP and FSDP: what the processes compute together is what one process computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.utils.checkpoint
from torch.distributed.tensor import DTensor

import thunder
from tests.distributed.models import Trained, make, whole
from tests.distributed.processes import Processes
from thunder import _torch_compat
from thunder.distributed.collectives import CollectiveRegions, Group
from thunder.distributed.layout import Layout
from thunder.plugins import DDP, FSDP

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}

PLUGINS: dict[str, Any] = {
    "ddp": lambda: DDP(bucket_mb=0.02),
    "fsdp3": lambda: FSDP(),
    "fsdp2": lambda: FSDP(stage=2, bucket=1 << 14),
    "hybrid": lambda: FSDP(shard_size=2),
}


def my_part(rank: int, batches: torch.Tensor) -> torch.Tensor:
    return batches.chunk(dist.get_world_size(), dim=1)[rank]


def ten_steps(rank: int, name: str, plugin: str, recipe: str, clip: float) -> None:
    """Trains on this rank's part of each batch, and in one process on all of it."""
    model, loss, batches = make(name)
    expected = Trained(model, loss, batches, clip=clip)
    model, loss, batches = make(name)
    compiled = thunder.compile(model, recipe=recipe, plugins=PLUGINS[plugin]())
    trained = Trained(compiled, loss, my_part(rank, batches), clip=clip)
    for value, reference in zip(trained.losses, expected.losses):
        dist.all_reduce(value)
        torch.testing.assert_close(value / dist.get_world_size(), reference, **TOLERANCE)
    torch.testing.assert_close(trained.norms, expected.norms, **TOLERANCE)
    torch.testing.assert_close(trained.gradients, expected.gradients, **TOLERANCE)
    torch.testing.assert_close(trained.parameters, expected.parameters, **TOLERANCE)
    statistics = thunder.compile_stats(compiled)
    assert statistics.plain_calls == 0 and statistics.cache_misses == 1, statistics
    assert not any("operation by operation" in note for note in statistics.notes), statistics.notes


@pytest.mark.parametrize("plugin", ["ddp", "fsdp3", "fsdp2"])
@pytest.mark.parametrize("name", ["llama", "litgpt", "vit"])
def test_two_processes_train_as_one_does(two: Processes, name: str, plugin: str) -> None:
    two.run(ten_steps, name, plugin, "eager", 0.5 if name == "litgpt" else 0.0)


@pytest.mark.parametrize("name, plugin", [("llama", "hybrid"), ("vit", "fsdp3")])
def test_four_processes_train_as_one_does(four: Processes, name: str, plugin: str) -> None:
    four.run(ten_steps, name, plugin, "eager", 0.5)


def test_default_executors(two: Processes) -> None:
    two.run(ten_steps, "litgpt", "fsdp3", "auto", 0.0)


def fsdp_traces(rank: int) -> tuple[str, str, str]:
    model, loss, batches = make("llama")
    compiled = thunder.compile(model, recipe="eager", plugins=FSDP())
    loss(compiled, batches[0]).backward()
    assert all(isinstance(p, DTensor) and isinstance(p.grad, DTensor) for p in model.parameters())
    forward, backward = thunder.last_traces(compiled)[-1], thunder.last_backward_traces(compiled)[-1]
    saved_whole = [var.name for var in forward.output_vars() if var.name in dict(model.named_parameters())]
    assert not saved_whole
    stage2 = thunder.compile(make("llama")[0], recipe="eager", plugins=FSDP(stage=2))
    loss(stage2, batches[0]).backward()
    return calls(forward), calls(backward), calls(thunder.last_backward_traces(stage2)[-1])


def calls(trace: Any) -> str:
    return " ".join(op.target.name for op in trace.ops if hasattr(op.target, "trace"))


def test_traces_show_where_collectives_begin_and_end(two: Processes) -> None:
    forward, backward, stage2 = two.run(fsdp_traces)[0]
    assert forward == (
        "gather_block_forward end_gather_block_forward gather_layers_forward block_forward "
        "end_gather_layers_forward gather_layers_forward layers_forward "
        "end_gather_layers_forward gather_block_1_forward layers_forward "
        "end_gather_block_1_forward block_1_forward"
    )
    # Each block's reduction begins right after the block, the gather for the next block before it; both end later.
    assert backward.split()[3:9] == [
        "block_1_backward", "reduce_block_1_backward", "end_gather_layers_backward",
        "gather_layers_backward", "layers_backward", "reduce_layers_backward",
    ]  # fmt: skip
    assert backward.split()[-1] == "end_reduce_gradients"
    assert "gather" not in stage2 and "reduce" in stage2


def accumulated(rank: int, plugin: str) -> None:
    """Two batches without synchronisation and one with it give the average of the three."""
    model, loss, batches = make("litgpt")
    for batch in batches[:3]:
        loss(model, batch).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model, loss, batches = make("litgpt")
    compiled = thunder.compile(model, recipe="eager", plugins=PLUGINS[plugin]())
    mine = my_part(rank, batches)
    with compiled.no_sync():
        loss(compiled, mine[0]).backward()
        if plugin == "ddp":
            alone = {name: p.grad.clone() for name, p in model.named_parameters()}
            assert any(not torch.allclose(alone[name], value) for name, value in expected.items())
        loss(compiled, mine[1]).backward()
    loss(compiled, mine[2]).backward()
    torch.testing.assert_close({n: whole(p.grad) for n, p in model.named_parameters()}, expected, **TOLERANCE)
    for parameter in model.parameters():
        parameter.grad = None
    loss(compiled, mine[0]).backward()
    loss(compiled, mine[1]).backward()
    loss(compiled, mine[2]).backward()
    torch.testing.assert_close({n: whole(p.grad) for n, p in model.named_parameters()}, expected, **TOLERANCE)


@pytest.mark.parametrize("plugin", ["ddp", "fsdp3"])
def test_no_sync(two: Processes, plugin: str) -> None:
    two.run(accumulated, plugin)


class Mixed(torch.nn.Module):
    """Buffers, batch norm, dropout, frozen, unused and shared parameters, two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        self.dropout, self.head = torch.nn.Dropout(0.0), torch.nn.Linear(36, 5)
        self.shared = self.again = torch.nn.Linear(5, 5)
        self.frozen, self.unused = torch.nn.Linear(5, 5).requires_grad_(False), torch.nn.Linear(3, 3)
        self.double()
        self.scale = torch.nn.Parameter(torch.ones(5))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.dropout(self.norm(self.convolution(x)).relu())
        return self.again(self.frozen(self.shared(self.head(x.flatten(1))))) * self.scale


def mixed_models(rank: int) -> None:
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).chunk(2)
    torch.manual_seed(0)
    references = [Mixed(), Mixed()]
    references[1].load_state_dict(references[0].state_dict())
    for reference, mine in zip(references, x):  # batch norm sees each process's part
        reference(mine).square().mean().backward()
    expected = {
        name: (p.grad + q.grad) / 2
        for (name, p), q in zip(references[0].named_parameters(), references[1].parameters())
        if p.grad is not None
    }
    norm = torch.stack([g.double().norm() for g in expected.values()]).norm()
    for plugin in (DDP(), DDP(find_unused_parameters=True), FSDP(), FSDP(stage=2), FSDP(offload=True)):
        torch.manual_seed(0)
        compiled = thunder.compile(Mixed(), recipe="eager", plugins=plugin)
        compiled(x[rank]).square().mean().backward()
        found = {name: whole(p.grad) for name, p in compiled.named_parameters() if p.grad is not None}
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(dict(compiled.named_buffers()), dict(references[rank].named_buffers()))
        assert compiled.shared.weight is compiled.again.weight
        torch.testing.assert_close(compiled.clip_grad_norm_(1.0).double(), norm, rtol=1e-6, atol=0.0)
        compiled.dropout.p = 0.5
        torch.manual_seed(rank)
        first, second = compiled(x[0]), compiled(x[0])
        assert not torch.equal(first, second)  # masks are drawn anew
        compiled.eval()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x[0]), compiled(x[0]))


def test_models_with_all_kinds_of_state(two: Processes) -> None:
    two.run(mixed_models)


class Branches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.never = torch.nn.Linear(4, 4)
        self.bias = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor, second: bool) -> torch.Tensor:
        return (self.second(x) if second else self.first(x)) + self.bias


def unused(rank: int) -> None:
    torch.manual_seed(0)
    model = Branches().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    compiled = thunder.compile(model, recipe="eager", plugins=DDP(find_unused_parameters=True))
    compiled(x, rank == 1).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients["never.weight"] is None
    for name in ("first", "second"):
        torch.testing.assert_close(gradients[f"{name}.weight"], x.sum(0).expand(4, 4) / 2)
    torch.testing.assert_close(gradients["bias"], torch.tensor(24.0, dtype=torch.float64))


def test_parameters_that_other_ranks_use(two: Processes) -> None:
    two.run(unused)


def starts_alike(rank: int) -> None:
    """Ranks start with the first one's values, whatever their seeds; a scalar parameter is not divided."""
    for plugin in (DDP(), FSDP()):
        torch.manual_seed(rank)
        model = Branches()
        model.register_buffer("steps", torch.tensor([float(rank)]))
        thunder.compile(model, plugins=plugin)
        torch.manual_seed(0)
        for (name, p), reference in zip(model.named_parameters(), Branches().parameters()):
            torch.testing.assert_close(whole(p), reference.detach(), msg=name)
        assert model.steps.item() == 0.0


def test_synchronised_start(two: Processes) -> None:
    two.run(starts_alike)


def meta_start(rank: int) -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 3))
    torch.manual_seed(3)
    compiled = thunder.compile(model, recipe="eager", plugins=FSDP())
    torch.manual_seed(3)
    reference = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 3))
    for p, expected in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(whole(p), expected.detach())
    x = torch.randn(4, 6)
    torch.testing.assert_close(compiled(x), reference(x))
    assert model[0].weight.to_local().shape == ((3, 6) if rank == 0 else (2, 6))


def test_meta_device_start(two: Processes) -> None:
    two.run(meta_start)


def mixed_precision(rank: int) -> None:
    """Computes in bfloat16, adds up in float32, keeps float32 parts."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    reference = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    reference.load_state_dict(model.state_dict())
    plugin = FSDP(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    compiled = thunder.compile(model, recipe="eager", plugins=plugin)
    x = torch.randn(4, 8).bfloat16()
    out = compiled(x)
    assert out.dtype is torch.bfloat16
    out.float().square().sum().backward()
    expected = reference.bfloat16()(x)
    torch.testing.assert_close(out, expected)
    expected.float().square().sum().backward()
    for p, other in zip(model.parameters(), reference.parameters()):
        assert p.dtype is torch.float32 and p.grad.dtype is torch.float32
        torch.testing.assert_close(whole(p.grad), other.grad.float())
    trace = str(thunder.last_backward_traces(compiled)[-1])
    reduced = [line for line in trace.splitlines() if "reduce_scatter_tensor" in line]
    assert reduced and all("f32" in line for line in reduced)
    assert "bf16" in next(line for line in trace.splitlines() if "all_gather_into_tensor" in line)


def test_mixed_precision(two: Processes) -> None:
    two.run(mixed_precision)


def undivided(rank: int) -> None:
    """A program that cannot be lowered gives the same gradients."""
    for plugin in (DDP(), FSDP()):
        torch.manual_seed(0)
        model, x = torch.nn.Linear(5, 5).double(), torch.randn(4, 5, dtype=torch.float64)
        x = torch.cat([x, -x]) if rank else torch.cat([x, x])
        expected = torch.autograd.grad(model(torch.cat([x, x if rank == 0 else x])).relu().sum(), model.weight)[0]

        class Selecting(torch.nn.Module):
            def __init__(self, inner: torch.nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.inner(x)
                return y[y > 0]

        compiled = thunder.compile(Selecting(model), recipe="eager", plugins=plugin)
        compiled(x).sum().backward()
        dist.all_reduce(expected)
        torch.testing.assert_close(whole(model.weight.grad), expected / 2 / 2)


def test_programs_that_cannot_be_lowered(two: Processes) -> None:
    two.run(undivided)


class Checkpointed(torch.nn.Module):
    """Layers whose activations are computed again in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.GELU(), torch.nn.Linear(10, 6)) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
        return x


def checkpointed(rank: int) -> None:
    """Checkpointing of activations composes: parameters are gathered again for what is computed again."""
    torch.manual_seed(0)
    model, x = Checkpointed().double(), torch.randn(4, 6, dtype=torch.float64)
    model(x).square().mean().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for plugin in (FSDP(), FSDP(stage=2), DDP()):
        torch.manual_seed(0)
        compiled = thunder.compile(Checkpointed().double(), recipe="eager", plugins=plugin)
        compiled(my_part(rank, x[None])[0]).square().mean().backward()
        gradients = {name: whole(p.grad) for name, p in compiled.named_parameters()}
        torch.testing.assert_close(gradients, expected, **TOLERANCE)
        saved = thunder.last_traces(compiled)[-1].output_vars()[1:]
        assert not any(tuple(var.value.shape) == (2, 10) for var in saved), saved


def test_checkpointed_activations(two: Processes) -> None:
    two.run(checkpointed)


def offloaded(rank: int) -> None:
    """Parts may be kept elsewhere: gathers begin with a copy, reductions end with one; here both places are the CPU."""
    model, loss, batches = make("llama")
    expected = Trained(model, loss, batches, steps=2, clip=0.5)
    model, loss, _ = make("llama")
    compiled = thunder.compile(model, recipe="eager", plugins=FSDP(offload=True))
    trained = Trained(compiled, loss, my_part(rank, batches), steps=2, clip=0.5)
    torch.testing.assert_close(trained.norms, expected.norms, **TOLERANCE)
    torch.testing.assert_close(trained.parameters, expected.parameters, **TOLERANCE)


def test_offloaded_state(two: Processes) -> None:
    two.run(offloaded)


def test_regions_of_parameters_that_are_kept_elsewhere() -> None:
    """Between a GPU that computes and a CPU that keeps, as far as the regions' own types go."""
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    layout = Layout((6, 4), torch.float32, torch.bfloat16, 2, 0, gpu, home=cpu)
    scalar = Layout((), torch.float32, torch.float32, 1, 0, gpu, home=cpu)
    mode = _torch_compat.fake_tensor_mode()
    regions = CollectiveRegions(Group("0", 2, 0, (0, 1)), None, None, torch.float32)
    begin, end = regions.gather([layout], mode, "layer").regions
    assert [var.value.device for var in begin.trace.inputs] == [cpu]
    assert begin.trace.ops[0].kwargs == {"device": gpu, "non_blocking": True}
    assert [(var.value.device, var.value.dtype) for var in end.trace.output] == [(gpu, torch.bfloat16)]
    (cast,) = regions.gather([scalar], mode, "scalar").regions
    assert [var.value.device for var in (*cast.trace.inputs, *cast.trace.output)] == [cpu, gpu]
    begin, end = regions.reduce([layout], mode, "layer", False).regions
    assert [var.value.device for var in begin.trace.inputs] == [gpu]
    assert [(var.value.device, var.value.dtype, tuple(var.value.shape)) for var in end.trace.output] == [
        (cpu, torch.float32, (3, 4))
    ]
    assert not layout.is_used_as_kept and not scalar.is_used_as_kept
