"""Processes that die or go another way: every rank gets an error that names the rank and the collective."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import thunder
from tests.distributed.processes import Processes
from thunder.errors import CollectiveError, DivergenceError
from thunder.plugins import DDP, FSDP, PP, TP

SECONDS = 20


def with_short_timeout() -> None:
    dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=SECONDS), dist.group.WORLD)


def model_of(layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(layers)))


PLUGINS: dict[str, Any] = {
    "fsdp": lambda: FSDP(),
    "tp": lambda: TP(plan={"0": "colwise", "1": "rowwise"}),
    "pp": lambda: PP(microbatches=2, loss=torch.nn.functional.mse_loss),
}


def dies(rank: int, plugin: str, collective: str) -> None:
    with_short_timeout()
    compiled = thunder.compile(model_of(3), recipe="eager", plugins=PLUGINS[plugin]())
    x = torch.ones(2, 8)

    def step() -> None:
        if plugin == "pp":
            compiled.train_step(x, target=x)
        else:
            compiled(x).sum().backward()

    step()
    if rank == 1:
        os._exit(3)
    with pytest.raises(CollectiveError, match=f"{collective} failed on rank 0: rank 1 did not take part"):
        step()
    raise RuntimeError("rank 0 has its error")


@pytest.mark.parametrize(
    "plugin, collective",
    [
        ("fsdp", r"gather_\w+ of computation"),
        ("tp", r"block_forward of computation"),
        ("pp", "exchange of the pipeline"),
    ],
)
def test_a_rank_dies(plugin: str, collective: str) -> None:
    with pytest.raises(AssertionError) as raised:
        Processes(2).run(dies, plugin, collective)
    assert "rank 0 has its error" in str(raised.value)
    assert "exit code 3" in str(raised.value)


class Branch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 6)

    def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
        return self.second(self.first(x)) if both else self.first(x)


def diverges(rank: int) -> None:
    with_short_timeout()
    compiled = thunder.compile(Branch(), recipe="eager", plugins=FSDP(timeout=5))
    x = torch.ones(2, 8)
    compiled(x, False).sum().backward()
    if rank == 1:
        with pytest.raises(DivergenceError, match=r"rank 0 did not come to the collectives of the computation program"):
            compiled(x, True)
    else:
        with pytest.raises(CollectiveError, match="rank 1 stands at: DivergenceError before computation"):
            compiled(x, False)


def test_a_rank_takes_another_path() -> None:
    processes = Processes(2)
    processes.run(diverges)
    processes.stop()


def known_paths(rank: int) -> None:
    """Every program is known to all; one rank runs another of them than the other rank at the same time."""

    def differs(compiled: Any, alone: Any, common: Any, match: str) -> None:
        for call in (common, alone, common):
            call(compiled)
        with pytest.raises(DivergenceError, match=match):
            (alone if rank == 1 else common)(compiled)
            common(compiled)
            common(compiled)

    x = torch.ones(4, 8)

    def trains(compiled: Any) -> None:
        compiled(x).sum().backward()

    def looks(compiled: Any) -> None:
        with torch.no_grad():
            compiled(x)

    def accumulates(compiled: Any) -> None:
        with compiled.no_sync():
            trains(compiled)

    def takes_half(compiled: Any) -> None:
        compiled(x[:2]).sum().backward()

    def steps(compiled: Any) -> None:
        compiled.train_step(x, target=x)

    def half_steps(compiled: Any) -> None:
        compiled.train_step(x[:2], target=x[:2])

    cases: list[tuple[Any, Any, Any]] = [
        (FSDP(), looks, trains), (DDP(), accumulates, trains), (PLUGINS["tp"](), takes_half, trains),
        (PLUGINS["pp"](), half_steps, steps),
    ]  # fmt: skip
    for plugin, alone, common in cases:
        compiled = thunder.compile(model_of(2), recipe="eager", plugins=plugin)
        differs(compiled, alone, common, f"rank {1 - rank} is about to run the collectives of .*, where rank {rank} is")
    assert thunder.compile_stats(compiled).cache_misses == 2


def test_a_rank_takes_another_known_path() -> None:
    processes = Processes(2)
    processes.run(known_paths)
    processes.stop()


def local_error(rank: int) -> None:
    """An error of the program itself is raised as it is, and not hidden by running the call in plain Python."""
    compiled = thunder.compile(torch.nn.Embedding(4, 8), recipe="eager", plugins=DDP())
    with pytest.raises(IndexError):
        compiled(torch.tensor([7]))


def test_errors_of_the_program(two: Processes) -> None:
    two.run(local_error)


TRAINING = """
import os, sys
import torch, torch.distributed as dist, thunder
from thunder.distributed import Checkpoints
from thunder.plugins import FSDP

folder, dies = sys.argv[1], sys.argv[2] == "dies"
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = thunder.compile(
    torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)), recipe="eager", plugins=FSDP()
)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
checkpoints = Checkpoints(folder, keep=2)
values = checkpoints.load(model, optimizer) or {"step": -1, "losses": []}
losses = values["losses"]
for step in range(values["step"] + 1, 6):
    batch = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).chunk(2)[rank]
    optimizer.zero_grad()
    loss = model(batch).square().mean()
    if dies and step == 3 and rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os._exit(1)
    loss.backward()
    optimizer.step()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    losses.append(mean.item())
    checkpoints.save(step, model, optimizer, losses=losses)
if rank == 0:
    print("LOSSES", losses, os.environ["TORCHELASTIC_RESTART_COUNT"])
dist.destroy_process_group()
"""


def torchrun(script: Path, folder: Path, mode: str) -> str:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1",
        "--monitor-interval=0.2", str(script), str(folder), mode,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Else gloo meets the addresses of the processes before the restart, and waits for them.
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return next(line for line in run.stdout.splitlines() if line.startswith("LOSSES"))


def test_torchrun_restarts_from_the_last_checkpoint(tmp_path: Path) -> None:
    """A killed rank costs a restart and no difference in the losses."""
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    interrupted = torchrun(script, tmp_path / "interrupted", "dies")
    straight = torchrun(script, tmp_path / "straight", "lives")
    assert interrupted.endswith(" 1") and straight.endswith(" 0")
    assert interrupted[:-2] == straight[:-2]
