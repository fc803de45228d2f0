"""Pipelines: stages on several processes compute what one process computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

import thunder
from tests.distributed.models import PLANS, make, whole
from tests.distributed.processes import Processes
from thunder.distributed import Checkpoints, describe_collectives, whole_state_dict
from thunder.errors import CheckpointError, OptionError, PipelineError
from thunder.plugins import DDP, FSDP, PP, TP

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def next_tokens(output: Any, targets: torch.Tensor) -> torch.Tensor:
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def of_classes(output: Any) -> torch.Tensor:
    return output.logits.logsumexp(-1).square().mean()


def step(name: str, model: Any, batch: torch.Tensor) -> torch.Tensor:
    if name == "vit":
        return model.train_step(pixel_values=batch)
    if name == "llama":
        return model.train_step(input_ids=batch[:, :-1], use_cache=False, target=batch[:, 1:])
    return model.train_step(batch[:, :-1], target=batch[:, 1:])


def pipelines(mesh: Any) -> dict[str, Any]:
    return {
        "pp": lambda pp, plan: pp(mesh["pp"]),
        "pp x ddp": lambda pp, plan: [DDP(mesh["other"], bucket_mb=0.01), pp(mesh["pp"])],
        "pp x fsdp": lambda pp, plan: [FSDP(mesh["other"]), pp(mesh["pp"])],
        "pp x tp": lambda pp, plan: [TP(mesh["other"], plan=plan), pp(mesh["pp"])],
    }


def ten_steps(rank: int, name: str, strategy: str, schedule: str, recipe: str = "eager") -> list[Any]:
    """Ten optimiser steps with clipped gradients; losses, norms, last gradients and parameters are one process's."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("pp", "other"))
    model, loss, batches = make(name)
    expected, norms = [], []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in batches:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
        expected.append(value.detach())
    reference = dict(model.named_parameters())
    model, loss, batches = make(name)
    function = of_classes if name == "vit" else next_tokens

    def pp(processes: Any) -> PP:
        return PP(processes, schedule=schedule, microbatches=4 if world == 2 else 2, loss=function)

    parts = world // 2 if strategy in ("pp x ddp", "pp x fsdp") else 1
    compiled = thunder.compile(model, recipe=recipe, plugins=pipelines(mesh)[strategy](pp, PLANS.get(name)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        value = step(name, compiled, batch.chunk(parts)[mesh.get_local_rank("other") if parts > 1 else 0])
        norm = compiled.clip_grad_norm_(0.5)
        optimizer.step()
        if parts > 1:
            dist.all_reduce(value, group=mesh.get_group("other"))
        torch.testing.assert_close(value / parts, expected[number], **TOLERANCE)
        torch.testing.assert_close(norm.item(), norms[number], **TOLERANCE)
    mine = 0
    for parameter_name, parameter in model.named_parameters():
        if parameter.grad is not None:
            mine += 1
            torch.testing.assert_close(whole(parameter.grad), reference[parameter_name].grad, **TOLERANCE)
            torch.testing.assert_close(whole(parameter), reference[parameter_name].detach(), **TOLERANCE)
    assert 0 < mine < len(reference)
    assert thunder.compile_stats(compiled).cache_misses == 1, thunder.compile_stats(compiled)
    state = whole_state_dict(compiled)
    if rank == 0:
        for parameter_name, parameter in reference.items():
            torch.testing.assert_close(state[parameter_name], parameter.detach(), **TOLERANCE)
    return compiled.stages()


@pytest.mark.parametrize(
    "name, schedule",
    [("llama", "1f1b"), ("litgpt", "gpipe"), ("vit", "zbv"), ("litgpt", "zero-bubble"), ("llama", "interleaved")],
)
def test_two_stages_train_as_one_process_does(two: Processes, name: str, schedule: str) -> None:
    stages = two.run(ten_steps, name, "pp", schedule)[0]
    assert sum(share for *_, share in stages) == pytest.approx(1.0)


@pytest.mark.parametrize("name, strategy", [("vit", "pp x ddp"), ("llama", "pp x fsdp"), ("litgpt", "pp x tp")])
def test_stages_of_several_processes(four: Processes, name: str, strategy: str) -> None:
    four.run(ten_steps, name, strategy, "1f1b")


def calls(rank: int) -> None:
    """Outputs are the whole batch's on every process; gradients of two steps add up; weights have a trace of theirs."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("pp",))
    reference, loss, batches = make("llama")
    model = make("llama")[0]
    plugin = PP(mesh, microbatches=2, stages=["model.layers.1"], loss=next_tokens)
    compiled = thunder.compile(model, recipe="eager", plugins=plugin)
    with torch.no_grad():
        output = compiled(input_ids=batches[0], use_cache=False)
        torch.testing.assert_close(output.logits, reference(input_ids=batches[0]).logits, **TOLERANCE)
        with pytest.raises(PipelineError, match="use_cache=False"):
            compiled(input_ids=batches[0])
    with pytest.raises(PipelineError, match="train_step"):
        compiled(input_ids=batches[0], use_cache=False)
    assert [(stage[0], stage[1]) for stage in compiled.stages()] == [
        (0, "model.embed_tokens"), (1, "model.layers.1.input_layernorm")
    ]  # fmt: skip
    for batch in batches[:2]:
        step("llama", compiled, batch)
        loss(reference, batch).backward()
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        used = name.startswith("model.embed") or ("layers.0" in name) == (rank == 0)
        assert (parameter.grad is not None) == used, name
        if used:
            torch.testing.assert_close(parameter.grad, expected[name].grad, **TOLERANCE)
        else:
            assert parameter.untyped_storage().nbytes() == 0
    with pytest.raises(PipelineError, match="batch of 3"):
        step("llama", compiled, batches[0][:3])


def layers() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8),
        torch.nn.Tanh(), torch.nn.Linear(8, 3),
    )  # fmt: skip


def batch_of(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)


def trained(model: torch.nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> list[float]:
    losses = []
    for number in numbers:
        x, y = batch_of(number)
        optimizer.zero_grad()
        if hasattr(model, "train_step"):
            loss = model.train_step(x, target=y)
        else:
            loss = F.mse_loss(model(x), y)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def pipeline_of_layers(**options: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A pipeline whose parameters have values of no use."""
    torch.manual_seed(99)
    model = thunder.compile(
        layers(), recipe="eager", plugins=PP(loss=F.mse_loss, microbatches=4, **options)
    )  # fmt: skip
    model.cut_stages(*batch_of(0)[:1], target=batch_of(0)[1])
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def resharded(rank: int, folder: str) -> None:
    """From the meta device; then checkpoints to other stages and to FSDP, and back from there."""
    torch.manual_seed(3)
    reference = layers()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.05)
    expected = trained(reference, optimizer, range(4))
    with torch.device("meta"):
        model = layers()
    torch.manual_seed(3 + rank)  # the first process's numbers count
    compiled = thunder.compile(model, recipe="eager", plugins=PP(loss=F.mse_loss, microbatches=4, device="cpu"))
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="cut_stages"):
        checkpoints.save(0, compiled)
    torch.manual_seed(5)
    compiled.cut_stages(batch_of(0)[0], target=batch_of(0)[1])
    assert 0 < sum(p.untyped_storage().nbytes() == 0 for p in compiled.parameters()) < 8
    optimizer = torch.optim.AdamW(compiled.parameters(), lr=0.05)
    assert trained(compiled, optimizer, range(2)) == pytest.approx(expected[:2], rel=1e-5)
    checkpoints.save(2, compiled, optimizer)
    other, optimizer = pipeline_of_layers(schedule="interleaved", stages=["2", "4", "6"])
    assert checkpoints.load(other, optimizer) == {"step": 2}
    assert trained(other, optimizer, range(2, 4)) == pytest.approx(expected[2:], rel=1e-5)
    torch.manual_seed(98)
    divided = thunder.compile(layers(), recipe="eager", plugins=FSDP())
    optimizer = torch.optim.AdamW(divided.parameters(), lr=0.05)
    checkpoints.load(divided, optimizer)
    assert trained(divided, optimizer, range(2, 3)) == pytest.approx(expected[2:3], rel=1e-5)
    checkpoints.save_in_background(3, divided, optimizer).result()
    other, optimizer = pipeline_of_layers(stages=["2"])
    checkpoints.load(other, optimizer)
    assert trained(other, optimizer, range(3, 4)) == pytest.approx(expected[3:], rel=1e-5)
    torch.testing.assert_close(
        {name: p.detach() for name, p in other.named_parameters() if p.untyped_storage().nbytes()},
        {name: p.detach() for name, p in reference.named_parameters() if name in own_names(other)},
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def own_names(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.untyped_storage().nbytes()}


def test_meta_device_start_and_checkpoints(two: Processes, tmp_path: Path) -> None:
    two.run(resharded, str(tmp_path))
    torch.manual_seed(7)
    model = layers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    Checkpoints(tmp_path).load(model, optimizer, step=2)
    torch.manual_seed(3)
    reference = layers()
    expected = trained(reference, torch.optim.AdamW(reference.parameters(), lr=0.05), range(4))
    assert trained(model, optimizer, range(2, 4)) == pytest.approx(expected[2:], rel=1e-5)


def last_reductions(rank: int) -> None:
    """The last microbatch's backward reduces the gradients of all while it runs, block by block."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("pp", "dp"))

    def block() -> torch.nn.Module:
        inner = [module for _ in range(4) for module in (torch.nn.Linear(6, 6), torch.nn.GELU())]
        return torch.nn.Sequential(*inner, torch.nn.Linear(6, 6))

    def blocks() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(*(block() for _ in range(4)))

    reference = blocks()
    x, y = torch.randn(8, 6), torch.randn(8, 6)
    F.mse_loss(reference(x), y).backward()
    for data_parallel in (DDP(mesh["dp"], bucket_mb=1e-4), FSDP(mesh["dp"])):
        plugins = [data_parallel, PP(mesh["pp"], microbatches=2, loss=F.mse_loss)]
        compiled = thunder.compile(blocks(), recipe="eager", plugins=plugins)
        compiled.train_step(x.chunk(2)[rank], target=y.chunk(2)[rank])
        for parameter, expected in zip(compiled.parameters(), reference.parameters()):
            torch.testing.assert_close(whole(parameter.grad), expected.grad)
        found = describe_collectives(thunder.last_backward_traces(compiled)[-1])
        reductions = [collective for collective in found if "reduce" in collective.kind]
        assert len(reductions) == 4, found
        assert all(any("backward" in name for name in one.beside) for one in reductions[:-1]), reductions


def bad_input(rank: int) -> None:
    model = make("llama")[0]
    with pytest.raises(OptionError, match="2 stages"):
        thunder.compile(model, plugins=PP(stages=["model.layers.0", "model.layers.1"]))
    with pytest.raises(OptionError, match="too few"):
        thunder.compile(model, plugins=PP(microbatches=1))
    with pytest.raises(OptionError, match="schedule"):
        PP(schedule="2f2b")
    with pytest.raises(OptionError, match="cannot follow"):
        thunder.compile(model, plugins=[PP(), DDP()])
    compiled = thunder.compile(model, recipe="eager", plugins=PP(stages=["model.layers.7"], microbatches=2))
    with torch.no_grad(), pytest.raises(PipelineError, match="'model.layers.7'.*no operation"):
        compiled(torch.ones(4, 5, dtype=torch.long))


def in_few_bits(rank: int) -> None:
    """Quantised layers are stages as others are."""
    answers = []
    for plugins in ("quantize-int8", ["quantize-int8", PP(microbatches=2)]):
        torch.manual_seed(0)
        compiled = thunder.compile(layers().eval(), recipe="eager", plugins=plugins)
        with torch.no_grad():
            answers.append(compiled(batch_of(0)[0]))
    torch.testing.assert_close(answers[1], answers[0])


def calls_and_errors(rank: int) -> None:
    in_few_bits(rank)
    calls(rank)
    last_reductions(rank)
    bad_input(rank)


def test_calls_and_bad_input(two: Processes) -> None:
    two.run(calls_and_errors)
