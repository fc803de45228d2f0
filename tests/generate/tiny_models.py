"""Small models with random weights, one of each architecture."""

from __future__ import annotations

import torch
import transformers

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 99,
    "max_position_embeddings": 256, "initializer_range": 0.4, "bos_token_id": 1, "eos_token_id": None,
    "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2}

CONFIGURATIONS = {
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**_GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, head_dim=8, sliding_window=6, query_pre_attn_scalar=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **{**_GROUPED, "num_hidden_layers": 3}, head_dim=8, sliding_window=6, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, sliding_window=5),
    "mixtral": lambda: transformers.MixtralConfig(**_GROUPED, num_local_experts=3, num_experts_per_tok=2),
    "phi": lambda: transformers.PhiConfig(**_SIZES),
    "gpt2": lambda: transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=256, initializer_range=0.4, bos_token_id=1,
        eos_token_id=None, pad_token_id=0,
    ),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=99, word_embed_proj_dim=32,
        max_position_embeddings=256, init_std=0.4, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    ),
    "bloom": lambda: transformers.BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, vocab_size=99, initializer_range=0.4, bos_token_id=1, eos_token_id=None,
        pad_token_id=0,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SIZES),
}  # fmt: skip

# Models that keep Hugging Face's own loop, with the reason that is noted.
OTHER_LOOPS = {"bloom": "it has its own"}


def make_model(name: str) -> torch.nn.Module:
    """The model in evaluation mode; equal weights at every call."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGURATIONS[name]())
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, bos_token_id=1)
    return model.eval()
