"""What a call of `generate` asks for, in the terms of the decoding loop, or why the loop does not do it.

Input: the arguments that Hugging Face's `generate` hands to its decoding method.  Output: a `Request`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation import (
    GenerationMixin,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    logits_process,
)
from transformers.generation.stopping_criteria import EosTokenCriteria

from thunder.generate.cache import can_exchange

# Processors that look at nothing but the scores, and do it with tensors of constant sizes.
PURE_PROCESSORS = frozenset(
    {
        logits_process.TemperatureLogitsWarper,
        logits_process.TopKLogitsWarper,
        logits_process.TopPLogitsWarper,
        logits_process.MinPLogitsWarper,
        logits_process.EpsilonLogitsWarper,
        logits_process.InfNanRemoveLogitsProcessor,
        logits_process.LogitNormalization,
    }
)
_KNOWN_ARGUMENTS = frozenset(
    {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "token_type_ids"}
)
_KNOWN_PATTERNS = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits, as far as the device does it; hashable.

    Attributes:
        processors: kinds and settings of the processors, in order.
        do_sample: drawn at random, not the most likely.
        eos: token ids that finish a sequence.
        pad: what finished sequences go on with.
    """

    processors: tuple[tuple[type, tuple[tuple[str, Any], ...]], ...]
    do_sample: bool
    eos: tuple[int, ...]
    pad: int


@dataclass
class Request:
    """One call of `generate`.

    Attributes:
        input_ids: [batch, tokens], all of the sequence or only what a given cache does not hold.
        new_ids: those that have not been through the model.
        filled: tokens that the given cache holds.
        mask: int64 [batch, filled + new], or None when nothing is padded.
        position_ids: of the new tokens, [batch, new].
        max_new: tokens to generate at most.
        sampling: what the device does.
        processors: those of the call; they run in Python, after each step, unless `on_device`.
        on_device: whether tokens are chosen on the device.
        criteria: stopping criteria other than length and end-of-sequence tokens.
        cache: the cache to be filled for the caller, or None.
        patterns: for each kind of attention its window, or None.
    """

    input_ids: torch.Tensor
    new_ids: torch.Tensor
    filled: int
    mask: torch.Tensor | None
    position_ids: torch.Tensor
    max_new: int
    sampling: Sampling
    processors: LogitsProcessorList
    on_device: bool
    criteria: StoppingCriteriaList
    cache: Cache | None
    given_cache: Cache | None
    keeps_logits: bool


def why_unsuitable(model: Any) -> str | None:
    """Why the loop cannot drive this model, or None."""
    kind = type(model)
    if model.config.is_encoder_decoder:
        return "it has an encoder"
    if not getattr(kind, "_can_compile_fullgraph", False):
        return "Hugging Face does not support a static cache for it"
    own = [
        name
        for name in (
            "prepare_inputs_for_generation",
            "_update_model_kwargs_for_generation",
            "create_masks_for_generate",
        )
        if getattr(kind, name, None) is not getattr(GenerationMixin, name, None)
    ]
    if own:
        return f"it has its own {own[0]}"
    parameters = inspect.signature(kind.forward).parameters
    missing = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache"} - set(parameters)
    if missing:
        return f"its forward does not take {', '.join(sorted(missing))}"
    if attention_patterns(model.config) is None:
        return "it has layers other than full and sliding-window attention"
    if model.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
        return f"its attention is {model.config.get_text_config()._attn_implementation!r}"
    if len({parameter.device for parameter in model.parameters()}) != 1:
        return "it is spread over several devices"
    return None


def attention_patterns(config: Any) -> dict[str, int | None] | int | None | bool:
    """The windows of a model's kinds of attention: a dict by kind, or one for all layers; None if unknown ones occur.

    For one kind in all layers: the window, or False when attention is full.
    """
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is not None:
        if not set(kinds) <= _KNOWN_PATTERNS:
            return None
        return {kind: window if kind == "sliding_attention" else None for kind in kinds}
    if getattr(config, "attention_chunk_size", None) is not None:
        return None
    return window if window is not None else False


def read_request(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    config: Any,
    arguments: dict[str, Any],
) -> Request | str:
    """The request, or why the loop does not serve it."""
    reason = _unusual(config, arguments, input_ids, model)
    if reason is not None:
        return reason
    cache = arguments.get("past_key_values")
    if cache is None or not can_exchange(cache):
        return f"the cache is a {type(cache).__name__}"
    users_cache = getattr(cache, "_thunder_given", True)
    filled = int(cache.get_seq_length())
    mask = arguments.get("attention_mask")
    mask_length = mask.shape[1] if mask is not None else getattr(config, "_mask_length", -1)
    new_ids = input_ids[:, filled:] if mask_length == input_ids.shape[1] else input_ids
    if new_ids.shape[1] == 0:
        return "the cache holds all tokens"
    if mask is not None:
        if mask.dim() != 2 or mask.shape[1] != filled + new_ids.shape[1]:
            return "the attention mask has an unusual shape"
        mask = None if bool((mask == 1).all()) else mask
        if mask is not None and not bool((mask[:, -1] == 1).all()):
            return "a prompt ends with padding"  # what the model makes of padding would choose the first token
    limit = next((c.max_length for c in stopping_criteria if isinstance(c, MaxLengthCriteria)), None)
    if limit is None or limit <= input_ids.shape[1]:
        return "no length limits it"
    position_ids = arguments["position_ids"][..., -new_ids.shape[1] :].expand(new_ids.shape)
    eos, others = _split_criteria(stopping_criteria, config)
    recorded = config.return_dict_in_generate and (config.output_scores or config.output_logits)
    pure = all(type(processor) in PURE_PROCESSORS for processor in logits_processor)
    sampling = Sampling(
        tuple((type(p), _settings(p)) for p in logits_processor) if pure else (),
        bool(config.do_sample),
        eos,
        _pad_token(config, eos),
    )
    return Request(
        input_ids=input_ids,
        new_ids=new_ids,
        filled=filled,
        mask=mask,
        position_ids=position_ids,
        max_new=limit - input_ids.shape[1],
        sampling=sampling,
        processors=logits_processor,
        on_device=pure and not recorded,
        criteria=others,
        cache=cache if users_cache or config.return_dict_in_generate else None,
        given_cache=cache if filled else None,
        keeps_logits=bool(recorded),
    )


def _unusual(config: Any, arguments: dict[str, Any], input_ids: torch.Tensor, model: Any) -> str | None:
    unknown = [name for name, value in arguments.items() if name not in _KNOWN_ARGUMENTS and value is not None]
    if unknown:
        return f"the model is called with {', '.join(sorted(unknown))}"
    if arguments.get("token_type_ids") is not None:
        return "the model is called with token_type_ids"
    if not arguments.get("use_cache"):
        return "use_cache is off"
    if config.prefill_chunk_size is not None:
        return "the prompt is processed in chunks"
    if getattr(config, "is_assistant", False):
        return "it assists another model"
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        return "attentions or hidden states are recorded"
    if input_ids.dim() != 2 or input_ids.shape[1] == 0 or input_ids.device != model.device:
        return "the input ids are unusual"
    position_ids = arguments.get("position_ids")
    if position_ids is None or position_ids.dim() != 2:
        return "the position ids are unusual"
    return None


def _split_criteria(criteria: StoppingCriteriaList, config: Any) -> tuple[tuple[int, ...], StoppingCriteriaList]:
    """End-of-sequence tokens, and the criteria that are neither these nor a length."""
    eos: list[int] = []
    others = StoppingCriteriaList()
    for criterion in criteria:
        if type(criterion) is EosTokenCriteria:
            eos += _token_ids(criterion.eos_token_id, config)
        elif type(criterion) is not MaxLengthCriteria:
            others.append(criterion)
    return tuple(dict.fromkeys(eos)), others


def _token_ids(tensor: torch.Tensor, config: Any) -> Sequence[int]:
    if tensor is config._eos_token_tensor and config.eos_token_id is not None:
        known = config.eos_token_id
        return [known] if isinstance(known, int) else list(known)
    return [int(token) for token in tensor.flatten().tolist()]


def _pad_token(config: Any, eos: tuple[int, ...]) -> int:
    if isinstance(config.pad_token_id, int):
        return config.pad_token_id
    return eos[0] if eos else 0


def _settings(processor: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(vars(processor).items()))
