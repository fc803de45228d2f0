"""The models that decide whether a GPU is used well, and single regions of them, at full size or small.

Input: whether the full size is wanted (a GPU) or a small version of the same (a CPU).  Output: `Workload`s.  Weights
are random: times do not depend on them.  Full-size models are bfloat16, small ones float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thunder.cli.workloads import Kind, Task, Workload

GENERATED_TOKENS = 100


@dataclass(frozen=True)
class Scale:
    """What distinguishes the full size from the small one.

    Attributes:
        dtype: of weights and activations.
        layers: at most so many layers.
        width: what hidden sizes, head counts and vocabularies are divided by.
        tokens: what long sequences are divided by.
    """

    dtype: torch.dtype
    layers: int
    width: int
    tokens: int

    def size(self, full: int) -> int:
        """A width at this scale."""
        return full // self.width

    def length(self, full: int) -> int:
        """A number of tokens or rows at this scale."""
        return max(4, full // self.tokens)


FULL = Scale(torch.bfloat16, layers=1000, width=1, tokens=1)
SMALL = Scale(torch.float32, layers=2, width=16, tokens=32)


def large_workloads(scale: Scale) -> tuple[Workload, ...]:
    """All workloads at one scale; the first word of a name is its model."""
    deepseek, llama = functools.partial(causal_model, scale, _DEEPSEEK), functools.partial(causal_model, scale, _LLAMA)
    long = scale.length(2048)

    def row(name: str, title: str, kind: Kind, build: Callable[[], Task]) -> Workload:
        return Workload(name, title, kind, build, truth="tokens" if kind == "generation" else "float32")

    return (
        row("deepseek-generate", f"Qwen 1.5B: {GENERATED_TOKENS} tokens, batch 1", "generation",
            lambda: deepseek(1, 10, generate=True)),
        row("llama-generate", f"Llama 8B: {GENERATED_TOKENS} tokens, batch 1", "generation",
            lambda: llama(1, 10, generate=True)),
        row("deepseek-forward", "Qwen 1.5B: forward, 1x10", "inference", lambda: deepseek(1, 10)),
        row("deepseek-forward-long", f"Qwen 1.5B: forward, 1x{long}", "inference", lambda: deepseek(1, long)),
        row("deepseek-loss-long", f"Qwen 1.5B: forward and loss, 1x{long}", "inference",
            lambda: deepseek(1, long, labels=True)),
        row("deepseek-backward", "Qwen 1.5B: loss and backward, 1x10", "training",
            lambda: deepseek(1, 10, labels=True)),
        row("deepseek-train", f"Qwen 1.5B: loss and backward, 2x{long}", "training",
            lambda: deepseek(2, long, labels=True)),
        row("litgpt-train", f"LitGPT Llama 3.2 1B: loss and backward, 2x{long}", "training",
            lambda: litgpt_llama(scale, 2, long)),
        row("bert-short", "BERT large: 1x8", "inference", lambda: bert(scale, 1, 8)),
        row("bert-long", f"BERT large: {scale.length(32)}x{scale.length(512)}", "inference",
            lambda: bert(scale, scale.length(32), scale.length(512))),
        row("vit-base", f"ViT-B/16: {scale.length(128)} images", "inference",
            lambda: vision_transformer(scale, scale.length(128))),
        *(
            row(f"region-{name}", f"{name.replace('-', ' ')}: loss and backward", "training",
                functools.partial(region, scale, name))
            for name in _REGIONS
        ),
    )  # fmt: skip


# Hidden size, intermediate size, layers, attention heads, heads of keys and values, vocabulary.
_DEEPSEEK = ("Qwen2", 1536, 8960, 28, 12, 2, 151936)
_LLAMA = ("Llama", 4096, 14336, 32, 32, 8, 128256)


def causal_model(
    scale: Scale, shape: tuple[Any, ...], batch: int, tokens: int, *, labels: bool = False, generate: bool = False
) -> Task:
    """A transformers causal language model on random tokens `[batch, tokens]`."""
    import transformers

    family, hidden, intermediate, layers, heads, groups, vocabulary = shape
    config = getattr(transformers, f"{family}Config")(
        hidden_size=scale.size(hidden),
        intermediate_size=scale.size(intermediate),
        num_hidden_layers=min(layers, scale.layers),
        num_attention_heads=heads if scale is FULL else 4,
        num_key_value_heads=groups if scale is FULL else 2,
        vocab_size=scale.size(vocabulary),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=scale.dtype)
    prompt = torch.randint(0, config.vocab_size, (batch, tokens))
    if generate:
        length = {"max_new_tokens": GENERATED_TOKENS, "min_new_tokens": GENERATED_TOKENS}
        return Task(model.eval(), kwargs={"input_ids": prompt}, generate=length)
    kwargs: dict[str, Any] = {"input_ids": prompt, "use_cache": False}
    if labels:
        return Task(model.train(), kwargs={**kwargs, "labels": prompt}, select=lambda result: result.loss)
    return Task(model.eval(), kwargs=kwargs, select=lambda result: result.logits)


class WithLoss(nn.Module):
    """A language model and the loss of the next token: what a training step compiles."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self.model(tokens)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def litgpt_llama(scale: Scale, batch: int, tokens: int) -> Task:
    """LitGPT's Llama 3.2 1B and the loss of the next token, as one module."""
    from litgpt import GPT, Config

    changes: dict[str, Any] = {"block_size": tokens}
    if scale is not FULL:
        changes |= {"n_layer": scale.layers, "n_embd": 128, "n_head": 4, "n_query_groups": 2,
                    "intermediate_size": 512, "padded_vocab_size": 512, "head_size": 32}  # fmt: skip
    config = Config.from_name("Llama-3.2-1B", **changes)
    torch.manual_seed(0)
    model = WithLoss(GPT(config)).to(scale.dtype)
    text = torch.randint(0, config.padded_vocab_size, (batch, tokens + 1))
    return Task(model, (text[:, :-1].contiguous(), text[:, 1:].contiguous()))


def bert(scale: Scale, batch: int, tokens: int) -> Task:
    """BERT large with a full attention mask."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=scale.size(1024),
        num_hidden_layers=min(24, scale.layers),
        num_attention_heads=16 if scale is FULL else 4,
        intermediate_size=scale.size(4096),
    )
    torch.manual_seed(0)
    model: nn.Module = BertModel(config)
    model = model.to(scale.dtype).eval()
    ids = torch.randint(0, config.vocab_size, (batch, tokens))
    kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Task(model, kwargs=kwargs, select=lambda result: result.last_hidden_state)


def vision_transformer(scale: Scale, images: int) -> Task:
    """ViT-B/16 on random images of 224x224 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=scale.size(768),
        num_hidden_layers=min(12, scale.layers),
        num_attention_heads=12 if scale is FULL else 4,
        intermediate_size=scale.size(3072),
    )
    torch.manual_seed(0)
    model: nn.Module = ViTForImageClassification(config)
    model = model.to(scale.dtype).eval()
    pixels = torch.randn(images, 3, 224, 224, dtype=scale.dtype)
    return Task(model, kwargs={"pixel_values": pixels}, select=lambda result: result.logits)


# --- single regions ----------------------------------------------------------------------------------------


class Region(nn.Module):
    """A function of its own parameters, so that a training step differentiates it by all of its inputs."""

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        super().__init__()
        self.function = function
        self.inputs = nn.ParameterList(inputs)

    def forward(self) -> Tensor:
        return self.function(*self.inputs)


def rms_norm_with_residual(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    summed = x + residual
    wide = summed.float()
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * normal.to(x.dtype) + summed


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def gelu_with_bias(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x.float(), -1).to(x.dtype)


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), torch.arange(logits.shape[0], device=logits.device))


# The function, and the shape of each input in (rows, columns) or (columns,).
_REGIONS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "rms-norm": (rms_norm_with_residual, ((8192, 4096), (8192, 4096), (4096,))),
    "layer-norm": (layer_norm, ((16384, 1024), (1024,), (1024,))),
    "swiglu": (swiglu, ((8192, 8960), (8192, 8960))),
    "gelu": (gelu_with_bias, ((16384, 4096), (4096,))),
    "softmax": (softmax, ((16384, 2048),)),
    "cross-entropy": (cross_entropy, ((2048, 151936),)),
}


def region(scale: Scale, name: str) -> Task:
    """One region and the gradients of all its inputs."""
    function, shapes = _REGIONS[name]
    torch.manual_seed(0)

    def tensor(shape: tuple[int, ...]) -> Tensor:
        rows = [scale.length(size) for size in shape[:-1]]
        return torch.randn(*rows, scale.size(shape[-1]), dtype=scale.dtype)

    return Task(Region(function, *map(tensor, shapes)), loss=torch.sum)
