"""Pipelines: stages on several processes compute what one process computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

import thunder
from tests.distributed.models import PLANS, make, whole
from tests.distributed.processes import Processes
from thunder.distributed import whole_state_dict
from thunder.errors import OptionError, PipelineError
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
        "pp x ddp": lambda pp, plan: [DDP(mesh["other"]), pp(mesh["pp"])],
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


def bad_input(rank: int) -> None:
    model = make("litgpt")[0]
    with pytest.raises(OptionError, match="2 stages"):
        thunder.compile(model, plugins=PP(stages=["transformer.h.0", "transformer.h.1"]))
    with pytest.raises(OptionError, match="too few"):
        thunder.compile(model, plugins=PP(microbatches=1))
    with pytest.raises(OptionError, match="schedule"):
        PP(schedule="2f2b")
    with pytest.raises(OptionError, match="cannot follow"):
        thunder.compile(model, plugins=[PP(), DDP()])
    compiled = thunder.compile(model, recipe="eager", plugins=PP(stages=["transformer.h.7"], microbatches=2))
    with torch.no_grad(), pytest.raises(PipelineError, match="'transformer.h.7'.*no operation"):
        compiled(torch.ones(4, 5, dtype=torch.long))


def calls_and_errors(rank: int) -> None:
    calls(rank)
    bad_input(rank)


def test_calls_and_bad_input(two: Processes) -> None:
    two.run(calls_and_errors)
