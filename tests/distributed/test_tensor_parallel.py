"""Tensor parallelism: processes with parts of the layers compute what one process computes with all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

import thunder
from tests.distributed.models import Trained, make, whole
from tests.distributed.processes import Processes
from thunder.distributed import automatic_plan, describe_collectives
from thunder.errors import MeshError, ShardingPlanError
from thunder.plugins import TP, QuantizeInt4

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def ten_steps(rank: int, name: str, sequence_parallel: bool = False, columns: int | None = None) -> None:
    model, loss, batches = make(name)
    batches = batches[..., :columns]
    expected = Trained(model, loss, batches)
    model, loss, _ = make(name)
    compiled = thunder.compile(model, recipe="eager", plugins=TP(sequence_parallel=sequence_parallel))
    trained = Trained(compiled, loss, batches)
    torch.testing.assert_close(trained.losses, expected.losses, **TOLERANCE)
    torch.testing.assert_close(trained.gradients, expected.gradients, **TOLERANCE)
    torch.testing.assert_close(trained.parameters, expected.parameters, **TOLERANCE)
    statistics = thunder.compile_stats(compiled)
    assert statistics.cache_misses == 1 and not any("operation by" in note for note in statistics.notes), statistics
    trace = thunder.last_backward_traces(compiled)[-1]
    assert any("mm" in one.beside for one in describe_collectives(trace))  # gradients of weights run meanwhile
    backward = str(trace)
    assert ("_c10d_functional.reduce_scatter" if sequence_parallel else "_c10d_functional.all_reduce") in backward


@pytest.mark.parametrize("name", ["llama", "litgpt"])
def test_two_processes_train_as_one_does(two: Processes, name: str) -> None:
    two.run(ten_steps, name)


def generates(rank: int) -> None:
    tokens = torch.arange(5)[None] + 3
    expected = make("llama")[0].eval().generate(tokens, max_new_tokens=4, do_sample=False)
    compiled = thunder.compile(make("llama")[0].eval(), recipe="eager", plugins=TP())
    assert compiled.generate(tokens, max_new_tokens=4, do_sample=False).tolist() == expected.tolist()
    with torch.no_grad():
        cache = compiled(input_ids=tokens, use_cache=True).past_key_values
    assert cache.layers[0].keys.shape[1] == 1  # of two key-value heads
    notes = thunder.compile_stats(compiled).notes
    assert not any("own loop" in note for known in notes for note in known), notes  # the steps are compiled programs
    assert compiled.generate(tokens, max_new_tokens=4, do_sample=False, num_beams=2).shape == expected.shape


def test_generation_with_a_divided_cache(two: Processes) -> None:
    two.run(generates)


def small_llama(**options: Any) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, **options,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def in_few_bits(rank: int) -> None:
    """Quantised layers are divided as they are stored: results differ by the order of sums alone."""
    tokens = torch.arange(10).view(2, 5)
    for quantised in ("quantize-int8", QuantizeInt4(group_size=32), "mxfp8"):
        with torch.no_grad():
            whole = thunder.compile(small_llama().eval(), recipe="eager", plugins=quantised)(input_ids=tokens).logits
            divided = thunder.compile(small_llama().eval(), recipe="eager", plugins=[quantised, TP()])
            torch.testing.assert_close(divided(input_ids=tokens).logits, whole, rtol=1e-5, atol=1e-5)
    model = small_llama().eval()
    with pytest.raises(ShardingPlanError, match="o_proj' cannot be divided.*its 32 inputs"):
        thunder.compile(model, plugins=[QuantizeInt4(group_size=64), TP()])


def eight_bits_in_training(rank: int) -> None:
    """Each process scales its part by itself: as near to float32 as "fp8" alone."""
    losses, norms = [], []
    tokens = torch.arange(32).view(2, 16) * 7 % 64
    for plugins in (None, "fp8", ["fp8", TP()]):
        compiled = thunder.compile(small_llama().train(), recipe="eager", plugins=plugins)
        loss = compiled(input_ids=tokens, labels=tokens).loss
        loss.backward()
        losses.append(loss.item())
        norms.append([whole(p.grad) for p in compiled.parameters()])
    assert abs(losses[2] - losses[0]) <= 2 * abs(losses[1] - losses[0]) + 1e-3
    for exact, alone, divided in zip(*norms):
        assert (divided - exact).norm() <= 1.5 * (alone - exact).norm() + 1e-3 * exact.norm()


def head_norms(rank: int) -> None:
    """Norms of single heads are whole on every process, and see some heads: their gradients are added up."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    def make_model() -> torch.nn.Module:
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
        )  # fmt: skip
        return Qwen3ForCausalLM(config).double()

    plan = automatic_plan(make_model())
    if not any(style == "replicated_with_grad_allreduce" for style in plan.values()):
        plan |= {f"model.layers.*.self_attn.{name}": "replicated_with_grad_allreduce" for name in ("q_norm", "k_norm")}
    tokens = torch.arange(12).view(2, 6)
    gradients = []
    for plugins in (None, TP(plan=plan)):
        compiled = thunder.compile(make_model(), recipe="eager", plugins=plugins)
        compiled(input_ids=tokens).logits.square().mean().backward()
        gradients.append({name: whole(p.grad) for name, p in compiled.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], **TOLERANCE)


def of_type(name: str, **options: Any) -> torch.nn.Module:
    """A small decoder of transformers; experts have no float64."""
    import transformers

    torch.manual_seed(0)
    if name == "GPT2":
        config: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        config |= {"attn_pdrop": 0.0, "n_positions": 32}
    else:
        config = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config |= {"num_key_value_heads": 2, "pad_token_id": 3}
    made = getattr(transformers, f"{name}Config")(**{"vocab_size": 64, **config, **options})
    model = transformers.AutoModelForCausalLM.from_config(made)
    return model if name == "Mixtral" else model.double()


DECODERS: dict[str, dict[str, Any]] = {
    "Gemma2": {"head_dim": 8},  # scaled embeddings, tied to the head
    "Phi3": {},  # packed weights, whose results are gathered
    "Mixtral": {"num_local_experts": 4},
    "GPT2": {"vocab_size": 67},  # no plan of its own, weights the other way round, a vocabulary that does not divide
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "max_position_embeddings": 32},
}


def decoders(rank: int) -> None:
    """Models that bring a plan, and models that bring none; the token 3 pads, and its row gets no gradient."""
    tokens = torch.arange(12).view(2, 6) + 1
    for name, options in DECODERS.items():
        tolerance = {"rtol": 1e-3, "atol": 1e-6} if name == "Mixtral" else TOLERANCE
        gradients = []
        for plugins in (None, TP()):
            compiled = thunder.compile(of_type(name, **options).eval(), recipe="eager", plugins=plugins)
            compiled(input_ids=tokens, use_cache=False).logits.logsumexp(-1).mean().backward()
            gradients.append({name: whole(p.grad) for name, p in compiled.named_parameters()})
        torch.testing.assert_close(gradients[1], gradients[0], **tolerance, msg=lambda text, n=name: f"{n}: {text}")
        parts = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in compiled.parameters())
        assert parts < 0.75 * sum(p.numel() for p in compiled.parameters()), name
    model = of_type("Mixtral", num_local_experts=4)
    with pytest.raises(ShardingPlanError, match=r"'mlp\.gate' is not"):
        thunder.compile(model, plugins=TP(sequence_parallel=True))
    with pytest.raises(ShardingPlanError, match="'lm_head.weight' are one parameter"):
        thunder.compile(of_type("Gemma2", head_dim=8), plugins=TP(plan={"lm_head": "colwise_gather_output"}))


def few_bits_and_head_norms(rank: int) -> None:
    in_few_bits(rank)
    eight_bits_in_training(rank)
    head_norms(rank)


def test_plans_of_decoders(two: Processes) -> None:
    two.run(decoders)


def test_layers_in_few_bits_and_norms_of_heads(two: Processes) -> None:
    two.run(few_bits_and_head_norms)


def bad_plans(rank: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    with pytest.raises(ShardingPlanError, match="names 'up', and the model has no such module"):
        thunder.compile(model, plugins=TP(plan={"up": "colwise"}))
    with pytest.raises(ShardingPlanError, match="known styles"):
        thunder.compile(model, plugins=TP(plan={"0": "diagonal"}))
    with pytest.raises(ShardingPlanError, match="is a ReLU"):
        thunder.compile(model, plugins=TP(plan={"1": "rowwise"}))
    with pytest.raises(MeshError, match="'2' has 3 output features, which 2 processes cannot divide"):
        thunder.compile(model, plugins=TP(plan={"2": "colwise"}))
    with pytest.raises(ShardingPlanError, match="brings no plan"):
        thunder.compile(model, plugins="tp")


def test_plans_that_do_not_fit(two: Processes) -> None:
    two.run(bad_plans)


def sequences_and_vocabularies(rank: int) -> None:
    """Sequence parallelism, and a loss within the model whose logits stay divided, train as one process does."""
    for name in ("llama", "litgpt"):
        ten_steps(rank, name, sequence_parallel=True, columns=5)

    def own_loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        labels = x[:, 1:].masked_fill(x[:, 1:] == 3, -100)
        return WithLoss.of(model)(x[:, :-1], labels)

    model, _, batches = make("litgpt")
    expected = Trained(model, own_loss, batches, steps=3)
    model, _, batches = make("litgpt")
    holder = WithLoss.of(model)
    plan = {f"model.{pattern}": style for pattern, style in automatic_plan(model).items()}
    compiled = thunder.compile(holder, recipe="eager", plugins=TP(plan=plan))
    trained = Trained(compiled, lambda m, x: m(x[:, :-1], x[:, 1:].masked_fill(x[:, 1:] == 3, -100)), batches, steps=3)
    torch.testing.assert_close(trained.losses, expected.losses, **TOLERANCE)
    assert {n.removeprefix("model."): g.shape for n, g in trained.gradients.items()} == {
        n: g.shape for n, g in expected.gradients.items()
    }
    for parameter, value in trained.parameters.items():
        torch.testing.assert_close(value, expected.parameters[parameter.removeprefix("model.")], **TOLERANCE)
    forward = thunder.last_traces(compiled)[-1]
    assert "all_gather" not in str(forward) and "amax" in str(forward)


class WithLoss(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    @staticmethod
    def of(model: torch.nn.Module) -> WithLoss:
        return WithLoss(model)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.model(tokens).double()
        return F.cross_entropy(logits[:, 1:].reshape(-1, logits.shape[-1]), labels[:, 1:].flatten())


def test_divided_sequences_and_vocabularies(two: Processes) -> None:
    two.run(sequences_and_vocabularies)
