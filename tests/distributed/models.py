"""Small models that the tests of this folder train, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

Loss = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


def _llama() -> tuple[torch.nn.Module, Loss, torch.Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=66, hidden_size=32, intermediate_size=50, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip

    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        # transformers' own loss would be in float32.
        return F.cross_entropy(model(input_ids=x[:, :-1]).logits.flatten(0, 1), x[:, 1:].flatten())

    return LlamaForCausalLM(config), loss, torch.randint(0, 66, (10, 4, 6))


def _litgpt() -> tuple[torch.nn.Module, Loss, torch.Tensor]:
    from litgpt import GPT, Config

    # LitGPT's own RMSNorm computes in float32.
    config = Config(
        block_size=16, vocab_size=66, padded_vocab_size=66, n_layer=2, n_head=4, n_query_groups=2, n_embd=32,
        intermediate_size=50, rotary_percentage=1.0, norm_class_name="LayerNorm", mlp_class_name="LLaMAMLP", bias=False,
    )  # fmt: skip

    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        logits = model(x[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())

    return GPT(config), loss, torch.randint(0, 66, (10, 4, 6))


def _vit() -> tuple[torch.nn.Module, Loss, torch.Tensor]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=50, image_size=16, patch_size=8,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=5,
    )  # fmt: skip

    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=x).logits.logsumexp(-1).square().mean()

    return ViTForImageClassification(config), loss, torch.randn(10, 4, 3, 16, 16, dtype=torch.float64)


_MODELS = {"llama": _llama, "litgpt": _litgpt, "vit": _vit}


PLANS = {
    "vit": {
        "vit.layers.*.attention.[qkv]_proj": "colwise",
        "vit.layers.*.attention.o_proj": "rowwise",
        "vit.layers.*.mlp.fc1": "colwise",
        "vit.layers.*.mlp.fc2": "rowwise",
    }
}
"""Plans for tensor parallelism of the models that bring none."""


def make(name: str) -> tuple[torch.nn.Module, Loss, torch.Tensor]:
    """(model, its loss on a batch, ten batches of four), the same at every call."""
    torch.manual_seed(0)
    model, loss, batches = _MODELS[name]()
    return model.double(), loss, batches


def whole(tensor: Any) -> torch.Tensor:
    """A tensor or DTensor as the plain tensor that it is in one process."""
    found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found.detach().clone()


class Trained:
    """What ten steps of training gave: losses, the last gradients, parameters."""

    def __init__(self, model: torch.nn.Module, loss: Loss, batches: torch.Tensor, steps: int = 10, clip: float = 0.0):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.losses = []
        self.norms = []
        for batch in batches[:steps]:
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            if clip and hasattr(model, "clip_grad_norm_"):
                self.norms.append(model.clip_grad_norm_(clip).item())
            elif clip:
                self.norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item())
            optimizer.step()
            self.losses.append(value.detach())
        names = [name for name, _ in model.named_parameters()]
        self.gradients = {n: whole(p.grad) for n, p in zip(names, model.parameters()) if p.grad is not None}
        self.parameters = {n: whole(p) for n, p in zip(names, model.parameters())}
