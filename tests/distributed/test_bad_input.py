"""Bad input to the distributed plugins: an error on every rank, the same one, and nobody waits for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import thunder
from tests.distributed.processes import Processes
from thunder.errors import DivergenceError, MeshError, OptionError, ProcessGroupError, ShardingPlanError, ThunderError
from thunder.plugins import DDP, FSDP, PP, TP


def refuses(kind: type[ThunderError], match: str, model: Any, plugins: Any) -> None:
    with pytest.raises(kind, match=match):
        thunder.compile(model, recipe="eager", plugins=plugins)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6))


class Attention(nn.Module):
    """Three heads of two."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 2
        self.q_proj = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x)


def of_meshes(rank: int) -> None:
    """World sizes and meshes that do not fit."""
    refuses(MeshError, "2 processes cannot be divided into groups of 3", linear(), FSDP(shard_size=3))
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b"))
    for plugin in (DDP, TP, PP):
        refuses(MeshError, "mesh of 2 dimensions", linear(), plugin(mesh))
    refuses(MeshError, "both mesh and shard_size", linear(), FSDP(mesh["a"], shard_size=1))
    refuses(MeshError, "not different dimensions", linear(), [TP(mesh["a"], plan={"0": "colwise"}), DDP(mesh["a"])])
    with pytest.raises(RuntimeError):
        init_device_mesh("cpu", (3,))


def of_models(rank: int) -> None:
    """Models that are on several devices, differ between ranks, or are none."""
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    for plugin in ("ddp", "fsdp", "tp", "pp"):
        refuses(MeshError, f"'{plugin}' needs a model on one device: '0.weight' on cpu", mixed, plugin)
        refuses(OptionError, "not a model", torch.sin, plugin)
    with torch.device("meta"):
        refuses(OptionError, "needs a model with values", nn.Linear(4, 4), "ddp")
    refuses(DivergenceError, "different models: rank 0 has .* rank 1 has", nn.Linear(4, 4 + rank), "fsdp")
    buffered = nn.Linear(4, 4)
    buffered.register_buffer("seen", torch.zeros(2 + rank))
    refuses(DivergenceError, "'seen'", buffered, "ddp")
    model = linear()
    thunder.compile(model, recipe="eager", plugins="fsdp")
    refuses(OptionError, "spread already", model, "fsdp")


def of_plans(rank: int) -> None:
    """Plans that name nothing, or layers and heads that do not divide; the model is as it was afterwards."""
    model = linear()
    refuses(ShardingPlanError, r"names '\*.up', and the model has no such module", model, TP(plan={"*.up": "colwise"}))
    refuses(ShardingPlanError, "the plan is empty", model, TP(plan={}))
    refuses(MeshError, "'q_proj' has 3 heads, which 2 processes cannot divide", Attention(), TP(plan={"*": "colwise"}))
    refuses(MeshError, "'1' has 5", nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), TP(plan={"1": "rowwise"}))
    refuses(ShardingPlanError, "has no layers with a norm", model, TP(plan={"0": "colwise"}, sequence_parallel=True))
    assert [type(parameter) for parameter in model.parameters()] == [nn.Parameter] * 4
    torch.testing.assert_close(model(torch.zeros(1, 4)).shape, torch.Size([1, 6]))


def of_plugins(rank: int) -> None:
    """Plugins that exclude each other, and options that make no sense."""
    for plugins, match in (
        (["ddp", "fsdp"], "'fsdp' cannot follow 'ddp'"),
        (["fsdp", "ddp"], "'ddp' cannot follow 'fsdp'"),
        (["pp", "tp"], "'tp' cannot follow 'pp'"),
        (["tp", "tp"], "'tp' cannot follow 'tp'"),
        (["ddp", "quantize-int8"], "'quantize-int8' cannot follow 'ddp'"),
    ):
        refuses(OptionError, match, linear(), plugins)
    refuses(OptionError, "unknown plugin 'dp'", linear(), "dp")
    bad: list[Callable[[], Any]] = [
        lambda: FSDP(stage=1), lambda: FSDP(prefetch=-1), lambda: FSDP(bucket="layer"), lambda: PP(schedule="2f2b"),
        lambda: PP(microbatches=0), lambda: PP(stages_per_rank=2), lambda: PP(schedule="zbv", stages_per_rank=3),
    ]  # fmt: skip
    for make in bad:
        with pytest.raises(OptionError):
            make()
    refuses(OptionError, "2 stages", linear(), PP(stages=["0", "1"]))
    refuses(OptionError, "too few", linear(), PP(microbatches=1))


def everything(rank: int) -> None:
    for part in (of_meshes, of_models, of_plans, of_plugins):
        part(rank)


def test_bad_input_is_an_error_on_every_rank(two: Processes) -> None:
    two.run(everything)


@pytest.mark.parametrize("plugin", ["ddp", "fsdp", "tp", "pp"])
def test_without_process_group(plugin: str) -> None:
    with pytest.raises(ProcessGroupError, match="torchrun"):
        thunder.compile(nn.Linear(2, 2), plugins=plugin)
