"""Plugins together on one mesh: four processes compute what one computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn import functional as F

import thunder
from tests.distributed.models import PLANS, Trained, make, whole
from tests.distributed.processes import Processes
from thunder.errors import MeshError, OptionError
from thunder.plugins import DDP, FSDP, PP, TP

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def two_by_two() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))


PLUGINS: dict[str, Any] = {
    "ddp": lambda mesh, plan: [TP(mesh["tp"], plan=plan), DDP(mesh["dp"], bucket_mb=0.01)],
    "fsdp3": lambda mesh, plan: [TP(mesh["tp"], plan=plan), FSDP(mesh["dp"])],
    "fsdp2": lambda mesh, plan: [TP(mesh["tp"], plan=plan), FSDP(mesh["dp"], stage=2)],
}


def ten_steps(rank: int, name: str, plugin: str, recipe: str) -> None:
    """Trains on this replica's part of each batch, and in one process on all of it; gradients are clipped."""
    mesh = two_by_two()
    model, loss, batches = make(name)
    expected = Trained(model, loss, batches, clip=0.5)
    model, loss, batches = make(name)
    compiled = thunder.compile(model, recipe=recipe, plugins=PLUGINS[plugin](mesh, PLANS.get(name)))
    trained = Trained(compiled, loss, batches.chunk(2, dim=1)[mesh.get_local_rank("dp")], clip=0.5)
    for value, reference in zip(trained.losses, expected.losses):
        dist.all_reduce(value, group=mesh.get_group("dp"))
        torch.testing.assert_close(value / 2, reference, **TOLERANCE)
    torch.testing.assert_close(trained.norms, expected.norms, **TOLERANCE)
    torch.testing.assert_close(trained.gradients, expected.gradients, **TOLERANCE)
    torch.testing.assert_close(trained.parameters, expected.parameters, **TOLERANCE)
    statistics = thunder.compile_stats(compiled)
    assert statistics.cache_misses == 1 and not any("operation by" in note for note in statistics.notes), statistics


@pytest.mark.parametrize(
    "name, plugin", [("llama", "fsdp3"), ("litgpt", "fsdp3"), ("vit", "fsdp3"), ("litgpt", "ddp"), ("llama", "fsdp2")]
)
def test_tensor_and_data_parallel(four: Processes, name: str, plugin: str) -> None:
    four.run(ten_steps, name, plugin, "eager")


def three_dimensions(rank: int, other: str) -> None:
    """Three steps of a Llama on pp x dp x tp, clipped: losses, norms and gradients are those of one process."""
    mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("pp", "dp", "tp"))
    model, loss, batches = make("llama")
    expected = Trained(model, loss, batches, steps=3, clip=0.5)
    model, _, _ = make("llama")
    data_parallel = DDP(mesh["dp"], bucket_mb=0.01) if other == "ddp" else FSDP(mesh["dp"])
    pipeline = PP(mesh["pp"], microbatches=2, loss=next_tokens)
    compiled = thunder.compile(model, recipe="eager", plugins=[TP(mesh["tp"]), data_parallel, pipeline])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for number, batch in enumerate(batches[:3]):
        optimizer.zero_grad()
        mine = batch.chunk(2)[mesh.get_local_rank("dp")]
        value = compiled.train_step(input_ids=mine[:, :-1], use_cache=False, target=mine[:, 1:])
        norm = compiled.clip_grad_norm_(0.5)
        optimizer.step()
        dist.all_reduce(value, group=mesh.get_group("dp"))
        torch.testing.assert_close(value / 2, expected.losses[number], **TOLERANCE)
        torch.testing.assert_close(norm.item(), expected.norms[number], **TOLERANCE)
    present = {name: p for name, p in model.named_parameters() if p.grad is not None}
    assert 0 < len(present) < len(expected.gradients)
    for name, parameter in present.items():
        torch.testing.assert_close(whole(parameter.grad), expected.gradients[name], **TOLERANCE)
        torch.testing.assert_close(whole(parameter), expected.parameters[name], **TOLERANCE)


def next_tokens(output: Any, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.logits.flatten(0, 1), targets.flatten())


def test_pipeline_tensor_and_data_parallel() -> None:
    eight = Processes(8)
    try:
        eight.run(three_dimensions, "fsdp")
        eight.run(three_dimensions, "ddp")
    finally:
        eight.stop()


def in_eight_bits(rank: int) -> None:
    """With the same batch on every rank, "fp8" with "fsdp" trains as "fp8" alone does."""
    trained = []
    for plugins in ("fp8", ["fp8", FSDP()]):
        model, loss, batches = make("litgpt")
        compiled = thunder.compile(model.float().train(), recipe="eager", plugins=plugins)
        trained.append(Trained(compiled, loss, batches, steps=3))
    torch.testing.assert_close(trained[1].losses, trained[0].losses)
    torch.testing.assert_close(trained[1].gradients, trained[0].gradients, rtol=1e-3, atol=1e-5)
    with pytest.raises(OptionError, match="not divided by 'fsdp'"):
        thunder.compile(make("litgpt")[0].float().eval(), plugins=["quantize-int8", "fsdp"])
    with pytest.raises(OptionError, match="cannot follow 'tp': whole layers are quantised"):
        thunder.compile(make("litgpt")[0].float().eval(), plugins=["tp", "quantize-int8"])


def test_eight_bits_and_divided_parameters(two: Processes) -> None:
    two.run(in_eight_bits)


def small_llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def few_bits_on_a_mesh(rank: int) -> None:
    """8-bit training is as near to float32 on a mesh as alone; quantised weights give the results of one process."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    tokens = torch.arange(68).view(4, 17) * 7 % 64
    plans: dict[str, Any] = {
        "float32": None,
        "fp8": "fp8",
        "tp x fsdp": ["fp8", TP(mesh["b"]), FSDP(mesh["a"])],
        "tp x ddp": ["fp8", TP(mesh["b"]), DDP(mesh["a"])],
        "pp x fsdp": ["fp8", FSDP(mesh["b"]), PP(mesh["a"], microbatches=2, loss=next_tokens)],
    }
    losses: dict[str, float] = {}
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    for name, plugins in plans.items():
        model = small_llama().train()
        compiled = thunder.compile(model, recipe="eager", plugins=plugins)
        if hasattr(compiled, "train_step"):
            loss = compiled.train_step(input_ids=tokens[:, :-1], use_cache=False, target=tokens[:, 1:])
        else:
            loss = next_tokens(compiled(input_ids=tokens[:, :-1], use_cache=False), tokens[:, 1:])
            loss.backward()
        losses[name] = loss.item()
        gradients[name] = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    for name in ("tp x fsdp", "tp x ddp", "pp x fsdp"):
        assert abs(losses[name] - losses["float32"]) <= 2 * abs(losses["fp8"] - losses["float32"]) + 1e-3, losses
        assert gradients[name]
        for parameter, found in gradients[name].items():
            exact, alone = gradients["float32"][parameter], gradients["fp8"][parameter]
            assert (found - exact).norm() <= 1.6 * (alone - exact).norm() + 1e-2 * exact.norm(), (name, parameter)
    with torch.no_grad():
        alone = thunder.compile(small_llama().eval(), recipe="eager", plugins="quantize-int8")
        expected = alone(input_ids=tokens, use_cache=False).logits
        for plugins in ([TP(mesh["b"]), PP(mesh["a"], microbatches=2)], [TP(mesh["b"]), DDP(mesh["a"])]):
            divided = thunder.compile(small_llama().eval(), recipe="eager", plugins=["quantize-int8", *plugins])
            logits = divided(input_ids=tokens, use_cache=False).logits
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_few_bits_on_a_mesh(four: Processes) -> None:
    four.run(few_bits_on_a_mesh)


def bad_input(rank: int) -> None:
    mesh = two_by_two()

    def linear() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 4))

    tensor = TP(mesh["tp"], plan={"0": "colwise_gather_output"})
    with pytest.raises(MeshError, match="not different dimensions of one mesh"):
        thunder.compile(linear(), plugins=[tensor, FSDP()])
    with pytest.raises(MeshError, match="not different dimensions of one mesh"):
        thunder.compile(linear(), plugins=[tensor, FSDP(mesh["tp"])])
    with pytest.raises(OptionError, match="cannot follow"):
        thunder.compile(linear(), plugins=[FSDP(mesh["dp"]), tensor])
    with pytest.raises(OptionError, match="find_unused_parameters"):
        thunder.compile(linear(), plugins=[tensor, DDP(mesh["dp"], find_unused_parameters=True)])


def test_bad_input_is_an_error_on_every_rank(four: Processes) -> None:
    four.run(bad_input)
