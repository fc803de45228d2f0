"""The models that are planned: Hugging Face configurations by name or file, and the part of one that a rank has.

Input: a name of `BUILT_IN`, a JSON file, or a directory with a `config.json`; a degree of tensor parallelism.
Output: a configuration; `Segments` of a rank's step.  Models are made on the meta device with a few layers, which
stand for all.  Needs transformers.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thunder.errors import PlanningError
from thunder.planning.segments import Segments, cut
from thunder.planning.traced_step import trace_step

_TRACED_LAYERS = 2


def _llama(hidden: int, intermediate: int, layers: int, heads: int, groups: int, **others: Any) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **others,
    }  # fmt: skip


# The published sizes, without weights.
BUILT_IN: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, head_dim=64, tie_word_embeddings=True),
    "llama-3.2-3b": _llama(3072, 8192, 28, 24, 8, head_dim=128, tie_word_embeddings=True),
    "llama-8b": _llama(4096, 14336, 32, 32, 8),
    "llama-70b": _llama(8192, 28672, 80, 64, 8),
    "llama-405b": _llama(16384, 53248, 126, 128, 8),
    "qwen2-1.5b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
    "qwen2-7b": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
}  # fmt: skip

# What tensor parallelism divides, by the names that configurations have in common.
_DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class PlannedModel:
    """A causal language model to be planned.

    Attributes:
        name: for tables.
        config: a transformers configuration.
    """

    name: str
    config: Any

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def hidden(self) -> int:
        return int(self.config.hidden_size)

    def tensor_parallel_reason(self, degree: int) -> str | None:
        """Why the model cannot be divided among so many, or None."""
        if degree == 1:
            return None
        for name in _DIVIDED:
            size = getattr(self.config, name, None)
            if not isinstance(size, int):
                return f"its configuration has no {name}"
            if size % degree:
                return f"{name}={size} does not divide by {degree}"
        if getattr(self.config, "num_experts", None) or getattr(self.config, "num_local_experts", None):
            return "experts are not divided"
        return None

    def local_config(self, degree: int) -> Any:
        """The configuration of the part that one of `degree` ranks computes: its heads, columns and vocabulary."""
        reason = self.tensor_parallel_reason(degree)
        if reason is not None:
            raise PlanningError(f"{self.name} cannot be divided among {degree} by tensor parallelism: {reason}")
        config = copy.deepcopy(self.config)
        if degree > 1:
            if getattr(config, "head_dim", None) is None:
                config.head_dim = config.hidden_size // config.num_attention_heads
            for name in _DIVIDED:
                setattr(config, name, getattr(config, name) // degree)
        return config


def load_model(source: str) -> PlannedModel:
    """A built-in model, or the one of a configuration file or directory."""
    name = source
    if source in BUILT_IN:
        description = dict(BUILT_IN[source])
    else:
        path = Path(source)
        if path.is_dir():
            path /= "config.json"
        if not path.is_file():
            raise PlanningError(
                f"there is no model {source!r}: neither a built-in name nor a configuration file",
                remedy=f"built in: {', '.join(BUILT_IN)}; or a config.json, or a directory that holds one",
            )
        description, name = _read(path), path.parent.name if path.name == "config.json" else path.stem
    return PlannedModel(name, make_config(description, name))


def _read(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PlanningError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(description, dict) or "model_type" not in description:
        raise PlanningError(
            f"{path} is no configuration of a transformers model: it has no 'model_type'",
            remedy="pass the config.json that model.save_pretrained(...) writes",
        )
    return description


def make_config(description: dict[str, Any], name: str) -> Any:
    """A transformers configuration of a causal language model."""
    if importlib.util.find_spec("transformers") is None:
        raise PlanningError("planning a configuration needs transformers", remedy="pip install 'thunder[demo]'")
    transformers = importlib.import_module("transformers")
    others = {key: value for key, value in description.items() if key != "model_type"}
    kind = description["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise PlanningError(f"{name}: transformers {transformers.__version__} knows no model_type {kind!r}")
    try:
        config = transformers.AutoConfig.for_model(kind, **others)
    except (TypeError, ValueError) as error:
        raise PlanningError(f"{name} is no configuration of a {kind} model: {error}") from None
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise PlanningError(
            f"{name}: {kind} has no causal language model",
            remedy="plan any other module with thunder.planning.cut(trace_step(...)), see docs/planning.md",
        )
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        raise PlanningError(f"{name}: the configuration does not say how many layers there are")
    return config


def trace_model(model: PlannedModel, *, sequence: int, micro_batch: int, tensor_parallel: int) -> Segments:
    """Forward and backward of what one rank computes of a micro-batch, in bfloat16."""
    transformers = importlib.import_module("transformers")
    config = model.local_config(tensor_parallel)
    is_uniform = len(set(getattr(config, "layer_types", None) or ["one"])) == 1
    if is_uniform:
        config.num_hidden_layers = min(_TRACED_LAYERS, model.layers)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        tokens = torch.empty(micro_batch, sequence, dtype=torch.long)
    step = trace_step(
        module.train(), (), {"input_ids": tokens, "labels": tokens, "use_cache": False}, training=True
    )
    segments = cut(step, layers=model.layers if is_uniform else None)
    if is_uniform and not segments.layers and model.layers > _TRACED_LAYERS:
        raise PlanningError(f"the layers of {model.name} are not equal, so that a few cannot stand for all")
    return segments
