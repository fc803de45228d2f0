"""Suite `litgpt`: every model family of LitGPT at tiny size.

A row is a configuration of LitGPT; configurations that differ only in sizes or names are one family, and stand for
it once. Generation feeds single tokens through LitGPT's own key-value cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from litgpt.config import Config, configs
from litgpt.model import GPT

from thunder.coverage.compare import compare
from thunder.coverage.model_phases import GENERATED_TOKENS, ModelCase, run_model_phases, with_signature_of
from thunder.coverage.recorder import Recorder
from thunder.coverage.subjects import Subject
from thunder.coverage.suite import Suite

BATCH, LENGTH, VOCABULARY, MAX_LAYERS = 2, 12, 128, 8
SIZES = (
    "name", "hf_config", "block_size", "n_layer", "n_embd", "vocab_size", "padding_multiple", "padded_vocab_size",
    "n_head", "head_size", "intermediate_size", "moe_intermediate_size", "rope_base", "norm_eps", "rope_condense_ratio",
    "attention_scores_scalar", "sliding_window_size", "routed_scaling_factor", "rope_local_base_freq",
)  # fmt: skip
"""Fields that do not change what a model computes, only how large it is or by which constants."""


class LitGPTSuite(Suite):
    """One configuration of every family."""

    name = "litgpt"
    packages = ("torch", "litgpt")

    def row_names(self) -> Sequence[str]:
        families: dict[str, str] = {}
        for entry in configs:
            families.setdefault(architecture(entry["name"]), entry["name"])
        return sorted(families.values(), key=str.lower)

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        run_model_phases(lambda: build(row), subject, recorder, device=self.device)
        if recorder.wants("generate"):
            with recorder.case("generate", "key-value cache"):
                run_generation(row, subject, self.device)


def architecture(name: str) -> str:
    """What tells a family from others: everything but sizes, and how queries share keys."""
    config = Config.from_name(name)
    fields = {field: value for field, value in vars(config).items() if field not in SIZES}
    groups = fields.pop("n_query_groups")
    fields["sharing"] = "one" if groups == 1 else "all" if groups == config.n_head else "some"
    for field in ("sliding_window_indices", "rope_indices"):
        fields[field] = sorted(set(fields[field] or ()))
    for field in ("n_expert", "n_expert_per_token", "n_shared_expert", "n_expert_groups", "n_topk_groups"):
        fields[field] = bool(fields.get(field))
    for field in ("latent_attention", "rope_adjustments"):
        fields[field] = sorted(fields[field]) if fields.get(field) else None
    fields.pop("n_topk_scores_per_group", None)
    fields.pop("rope_n_elem", None)
    return repr(sorted(fields.items(), key=lambda item: item[0]))


def tiny(name: str) -> Config:
    """A small configuration of the same family."""
    original = Config.from_name(name)
    layers = 2
    for pattern in (original.sliding_window_indices, original.rope_indices):
        for kind in set(pattern or ()):
            layers = max(layers, min(MAX_LAYERS, pattern.index(kind) + 1))
    groups = original.n_query_groups
    changes: dict[str, Any] = {
        "n_layer": layers,
        "n_embd": 64,
        "n_head": 4,
        "head_size": 16,
        "n_query_groups": 1 if groups == 1 else 4 if groups == original.n_head else 2,
        "intermediate_size": 128,
        "vocab_size": VOCABULARY,
        "padded_vocab_size": VOCABULARY,
        "block_size": 64,
    }
    if original.sliding_window_size is not None:
        changes["sliding_window_size"] = 16
    for field in ("sliding_window_indices", "rope_indices"):
        pattern = getattr(original, field)
        if pattern:
            changes[field] = pattern[:layers]
    if original.n_expert:
        changes.update(n_expert=4, n_expert_per_token=2)
    if original.moe_intermediate_size:
        changes["moe_intermediate_size"] = 64
    if original.attention_scores_scalar:
        changes["attention_scores_scalar"] = 16
    return Config.from_name(name, **changes)


def build(name: str) -> ModelCase:
    """A tiny model with random weights and tokens."""
    torch.manual_seed(0)
    model = GPT(tiny(name))
    notes = {"layers": model.config.n_layer}
    return ModelCase(model, {"idx": torch.randint(0, VOCABULARY, (BATCH, LENGTH))}, notes=notes)


def run_generation(name: str, subject: Subject, device: str) -> None:
    """Greedy tokens, one at a time, against eager."""
    case = build(name)
    case.move(device)
    model = copy.deepcopy(case.model)
    expected = generate(case.model, case.inputs["idx"][:1], case.model.forward)
    compiled = subject.compile(model.forward)
    compare(generate(model, case.inputs["idx"][:1], compiled), expected, "tokens")
    subject.require_compiled(compiled)


def generate(model: GPT, prompt: torch.Tensor, forward: Callable[..., Any]) -> torch.Tensor:
    """Prefill, then feed back the likeliest token; `forward` takes the place of the model's own."""
    model.eval()
    with torch.no_grad():
        model.set_kv_cache(batch_size=1, device=prompt.device)
        model.forward = with_signature_of(forward, model.forward)
        tokens, position, made = prompt, torch.arange(prompt.shape[1], device=prompt.device), []
        for _ in range(GENERATED_TOKENS):
            logits = model(tokens, position)
            tokens = logits[:, -1:].argmax(-1)
            position = position[-1:] + 1
            made.append(tokens)
    return torch.cat(made, dim=1)


SUITE = LitGPTSuite()
