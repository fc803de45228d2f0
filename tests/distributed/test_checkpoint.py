"""Checkpoints: from any number of processes to any other, in the background, and through a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh

import thunder
from tests.distributed.models import make, whole
from tests.distributed.processes import Processes
from thunder.distributed import Checkpoints, load_safetensors, whole_state_dict
from thunder.errors import CheckpointError
from thunder.plugins import DDP, FSDP, PP, TP


def trained(plugin: object | None, steps: int = 2) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small model after a few steps, with states in its optimiser; layers of five rows do not divide evenly."""
    torch.manual_seed(0)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    compiled = model if plugin is None else thunder.compile(model, recipe="eager", plugins=plugin)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        compiled(torch.ones(2, 6)).sum().backward()
        optimizer.step()
    return compiled, optimizer


def states(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {f"{name}": whole(p) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        found |= {f"{name}.{key}": whole(value) for key, value in optimizer.state[p].items()}
    return found


def save_divided(rank: int, folder: str) -> None:
    model, optimizer = trained(FSDP())
    checkpoints = Checkpoints(folder, keep=2)
    for step in range(3):
        checkpoints.save(step, model, optimizer, epoch=step)
    running = checkpoints.save_in_background(7, model, optimizer, epoch=9)
    optimizer.step()  # what is being written is what it was
    running.result()
    checkpoints.wait()
    dist.barrier()
    assert checkpoints.steps() == [2, 7]


def load_divided(rank: int, folder: str) -> None:
    expected = states(*trained(None))
    for plugin in (DDP(), FSDP(), FSDP(shard_size=1)):
        model, optimizer = trained(plugin, steps=1)
        values = Checkpoints(folder).load(model, optimizer)
        assert values == {"step": 7, "epoch": 9}
        torch.testing.assert_close(states(model, optimizer), expected)


def test_resharding(two: Processes, tmp_path: Path) -> None:
    """Two processes to one, to two with other plans, and one process to two."""
    two.run(save_divided, str(tmp_path))
    model, optimizer = trained(None, steps=1)
    values = Checkpoints(tmp_path).load(model, optimizer)
    assert values == {"step": 7, "epoch": 9}
    torch.testing.assert_close(states(model, optimizer), states(*trained(None)))
    two.run(load_divided, str(tmp_path))
    alone = tmp_path / "alone"
    Checkpoints(alone).save(7, model, optimizer, epoch=9)
    two.run(load_divided, str(alone))


def test_four_processes_load_what_two_saved(two: Processes, four: Processes, tmp_path: Path) -> None:
    two.run(save_divided, str(tmp_path))
    four.run(load_divided, str(tmp_path))


class DyingWriter(FileSystemWriter):
    def finish(self, *args: object, **kwargs: object) -> None:
        os._exit(9)


def dies_while_saving(rank: int, folder: str, background: bool) -> None:
    model, optimizer = trained(FSDP())
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, model, optimizer)
    optimizer.step()
    # All parts of the second checkpoint are written when the process is gone.
    FileSystemWriter.finish = DyingWriter.finish  # type: ignore[method-assign]
    if background:
        checkpoints.save_in_background(2, model, optimizer).result()
    checkpoints.save(2, model, optimizer)


@pytest.mark.parametrize("background", [False, True])
def test_crash_while_saving(tmp_path: Path, background: bool) -> None:
    processes = Processes(2)
    with pytest.raises(AssertionError, match="exit code 9"):
        processes.run(dies_while_saving, str(tmp_path), background)
    assert any((tmp_path / "step-2").iterdir())
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1]
    model, optimizer = trained(None, steps=1)
    assert checkpoints.load(model, optimizer) == {"step": 1}
    torch.testing.assert_close(states(model, optimizer), states(*trained(None)))
    checkpoints.save(2, model, optimizer)  # over what is left of the one that failed
    assert checkpoints.steps() == [1, 2]


def tokens_of(step: int) -> torch.Tensor:
    return make("llama")[2][step]


def steps_of(compiled: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range, part: tuple[int, int]) -> None:
    """Training steps on one of several parts of each batch, gradients clipped."""
    for step in steps:
        mine = tokens_of(step).chunk(part[0])[part[1]]
        optimizer.zero_grad()
        if hasattr(compiled, "train_step"):
            compiled.train_step(input_ids=mine[:, :-1], use_cache=False, target=mine[:, 1:])
        else:
            make("llama")[1](compiled, mine).backward()
        if hasattr(compiled, "clip_grad_norm_"):
            compiled.clip_grad_norm_(0.5)
        else:
            torch.nn.utils.clip_grad_norm_(compiled.parameters(), 0.5)
        optimizer.step()


def other_plans(rank: int, folder: str) -> None:
    """A step with each plan, every time from the checkpoint of the plan before, with the optimiser's states."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def pipeline() -> PP:
        def loss(output: Any, targets: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), targets.flatten())

        return PP(mesh["dp"], microbatches=2, loss=loss)

    replica = 2, mesh.get_local_rank("dp")
    plans: list[tuple[Any, tuple[int, int]]] = [
        ([TP(mesh["tp"]), FSDP(mesh["dp"])], replica), ([TP(mesh["tp"]), pipeline()], (1, 0)),
        (FSDP(mesh), (4, rank)), (TP(mesh["tp"]), (1, 0)), ([FSDP(mesh["tp"]), pipeline()], (2, rank % 2)),
        ([TP(mesh["tp"]), DDP(mesh["dp"])], replica),
    ]  # fmt: skip
    reference = make("llama")[0]
    steps_of(reference, torch.optim.AdamW(reference.parameters(), lr=1e-2), range(len(plans)), (1, 0))
    checkpoints = Checkpoints(folder, keep=1)
    for step, (plugins, part) in enumerate(plans):
        compiled = thunder.compile(make("llama")[0], recipe="eager", plugins=plugins)
        if hasattr(compiled, "cut_stages"):
            batch = tokens_of(0)[: 4 // part[0]]
            compiled.cut_stages(input_ids=batch[:, :-1], use_cache=False, target=batch[:, 1:])
        optimizer = torch.optim.AdamW(compiled.parameters(), lr=1e-2)
        assert (checkpoints.load(compiled, optimizer) or {"step": -1})["step"] == step - 1
        steps_of(compiled, optimizer, range(step, step + 1), part)
        checkpoints.save_in_background(step, compiled, optimizer)
    state = whole_state_dict(compiled)
    checkpoints.wait()
    if rank == 0:
        torch.testing.assert_close(state, dict(reference.state_dict()), rtol=1e-8, atol=1e-9)


def test_resharding_to_other_plans(four: Processes, tmp_path: Path) -> None:
    four.run(other_plans, str(tmp_path))


def plain_files(rank: int, folder: str) -> None:
    reference, loss, batches = make("llama")
    if rank == 0:
        reference.save_pretrained(folder)
    dist.barrier()
    for plugin in (FSDP, TP):
        with torch.device("meta"):
            model = type(reference)(reference.config).double()
        divided = plugin(initialise=model._init_weights, synchronise=False)
        compiled = thunder.compile(model, recipe="eager", plugins=divided)
        load_safetensors(compiled, folder)
        torch.testing.assert_close(loss(compiled, batches[0]), loss(reference, batches[0]))
        state = whole_state_dict(compiled)
        if rank == 0:
            torch.testing.assert_close(state, dict(reference.state_dict()))
        else:
            assert not state
    with pytest.raises(CheckpointError, match="missing"):
        load_safetensors(torch.nn.Linear(2, 2), folder)


def test_plain_safetensors_into_a_divided_model(two: Processes, tmp_path: Path) -> None:
    two.run(plain_files, str(tmp_path))


def test_no_such_checkpoint(tmp_path: Path) -> None:
    model, optimizer = trained(None)
    assert Checkpoints(tmp_path).load(model, optimizer) is None
    with pytest.raises(CheckpointError, match="no whole checkpoint of step 3"):
        Checkpoints(tmp_path).load(model, optimizer, step=3)
