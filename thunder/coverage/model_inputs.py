"""Example inputs for transformers models, from the signature of a model's forward and its configuration.

Input: a model. Output: candidate sets of keyword arguments, the richest first (text with an image, then text
alone); the first that eager accepts is used. A model that says how many placeholder tokens its image needs is
given that many.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from thunder.coverage.tiny_configuration import FIRST_SPECIAL_TOKEN, WIDTH

BATCH = 2
LENGTH = 12
SAMPLES = 4000
FRAMES = 64

Inputs = dict[str, Any]


def configurations(configuration: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and all those inside it, outermost first."""
    yield configuration
    for value in vars(configuration).values():
        if isinstance(value, PreTrainedConfig):
            yield from configurations(value)


def find(configuration: PreTrainedConfig, *names: str, kind: Any = int) -> Any:
    """The first value of a given kind that any of the configurations has under one of the names."""
    for part in configurations(configuration):
        for name in names:
            value = getattr(part, name, None) if name in vars(part) else None
            if isinstance(value, kind) and not isinstance(value, bool):
                return value
    return None


def vocabulary(model: PreTrainedModel) -> int:
    """How many different tokens text may use, special ones left out."""
    text = model.config.get_text_config()
    size = getattr(text, "vocab_size", None) or find(model.config, "vocab_size", "text_vocab_size") or 32
    if isinstance(size, dict):
        size = min(size.values())
    return max(2, min(int(size), FIRST_SPECIAL_TOKEN))


def tokens(model: PreTrainedModel, length: int = LENGTH, batch: int = BATCH) -> torch.Tensor:
    """Random text."""
    return torch.randint(min(5, vocabulary(model) - 1), vocabulary(model), (batch, length))


def padding_mask(text: torch.Tensor) -> torch.Tensor:
    """The last two tokens of the last sequence are padding: a mask of ones only is skipped by eager alone."""
    mask = torch.ones_like(text)
    mask[-1, -2:] = 0
    return mask


def image_shape(configuration: PreTrainedConfig) -> tuple[int, int, int]:
    """Channels, height and width of an image."""
    vision = getattr(configuration, "vision_config", None) or configuration
    size: Any = find(vision, "image_size", "img_size", "input_size", kind=int | list | tuple | dict) or 64
    if isinstance(size, dict):
        size = (size.get("height", 64), size.get("width", 64))
    height, width = (size[0], size[1]) if isinstance(size, list | tuple) and len(size) > 1 else (size, size)
    if isinstance(height, list | tuple):
        height, width = height[0], width[0]
    return find(vision, "num_channels", "in_channels", "in_chans") or 3, int(height), int(width)


def patch_rows(configuration: PreTrainedConfig, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Flattened image patches and their (time, height, width) grid, for models that take images of any size."""
    vision = getattr(configuration, "vision_config", None) or configuration
    patch = find(vision, "patch_size", "spatial_patch_size") or 14
    merge = find(vision, "spatial_merge_size", "merge_size") or 2
    time = find(vision, "temporal_patch_size") or 1
    channels = find(vision, "num_channels", "in_channels", "in_chans") or 3
    side = 2 * merge
    rows = torch.randn(batch * side * side, channels * time * patch * patch)
    return rows, torch.tensor([[1, side, side]] * batch)


def candidates(model: PreTrainedModel) -> Iterator[Inputs]:
    """Sets of inputs to try, the richest first."""
    names = list(inspect.signature(model.forward).parameters)
    text = text_inputs(model, names)
    seen = set()
    for media in (*media_inputs(model, names), {}):
        for extra in (extra_inputs(model, names), {}):
            inputs = {**text, **media, **extra}
            key = tuple((name, tuple(getattr(value, "shape", ()))) for name, value in sorted(inputs.items()))
            if inputs and key not in seen:
                seen.add(key)
                yield inputs


def text_inputs(model: PreTrainedModel, names: list[str]) -> Inputs:
    """Token inputs of encoders and decoders."""
    inputs: Inputs = {}
    if "input_ids" in names:
        inputs["input_ids"] = tokens(model)
        if "attention_mask" in names:
            inputs["attention_mask"] = padding_mask(inputs["input_ids"])
    elif "inputs_embeds" in names and model.main_input_name in ("inputs_embeds", "input_ids"):
        inputs["inputs_embeds"] = torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model") or WIDTH)
    if "decoder_input_ids" in names:
        inputs["decoder_input_ids"] = tokens(model, 7)
    if "bbox" in names:
        corners = torch.randint(0, 50, (BATCH, LENGTH, 2))
        inputs["bbox"] = torch.cat([corners, corners + torch.randint(1, 50, (BATCH, LENGTH, 2))], dim=-1)
    return inputs


def media_inputs(model: PreTrainedModel, names: list[str]) -> Iterator[Inputs]:
    """Images, videos and sound."""
    configuration = model.config
    if "image_grid_thw" in names or "grid_thw" in names:
        rows, grid = patch_rows(configuration, BATCH if "input_ids" in names else 1)
        if "grid_thw" in names:
            yield {("hidden_states" if "hidden_states" in names else "pixel_values"): rows, "grid_thw": grid}
        else:
            media: Inputs = {"pixel_values": rows, "image_grid_thw": grid}
            if "mm_token_type_ids" in names:
                media["mm_token_type_ids"] = torch.zeros(BATCH, LENGTH, dtype=torch.long)
            yield media
    if "pixel_values" in names:
        channels, height, width = image_shape(configuration)
        if "image_sizes" in names:
            sizes = torch.tensor([[height, width]] * BATCH)
            yield {"pixel_values": torch.randn(BATCH, channels, height, width), "image_sizes": sizes}
            yield {"pixel_values": torch.randn(BATCH, 3, channels, height, width), "image_sizes": sizes}
        yield {"pixel_values": torch.randn(BATCH, channels, height, width)}
        frames = find(configuration, "num_frames") or 2
        yield {"pixel_values": torch.randn(BATCH, frames, channels, height, width)}
        yield {"pixel_values": torch.randn(BATCH, 1, channels, height, width)}
    if "pixel_values_videos" in names:
        channels, height, width = image_shape(configuration)
        frames = find(configuration, "num_frames", "frames_per_clip") or 2
        yield {"pixel_values_videos": torch.randn(BATCH, frames, channels, height, width)}
    if "input_features" in names:
        bins = (
            find(configuration, "num_mel_bins", "feature_size", "mel_bins", "input_feat_per_channel", "input_dim") or 80
        )
        length = 2 * (find(configuration, "max_source_positions") or FRAMES // 2)
        for shape in ((BATCH, bins, length), (BATCH, FRAMES, bins), (BATCH, bins, FRAMES), (BATCH, 1, FRAMES, bins)):
            yield {"input_features": torch.randn(shape)}
            for mask in ("attention_mask", "input_features_mask", "feature_attention_mask"):
                if mask in names and not (mask == "attention_mask" and "input_ids" in names):
                    length = shape[1] if shape[-1] == bins else shape[-1]
                    yield {"input_features": torch.randn(shape), mask: torch.ones(BATCH, length, dtype=torch.long)}
    if "input_values" in names:
        bins = find(configuration, "num_mel_bins") or 80
        yield {"input_values": torch.randn(BATCH, SAMPLES)}
        yield {"input_values": torch.randn(BATCH, 1, SAMPLES)}
        yield {"input_values": torch.randn(BATCH, find(configuration, "max_length") or FRAMES, bins)}
        yield {"input_values": torch.randn(BATCH, FRAMES, bins)}


def extra_inputs(model: PreTrainedModel, names: list[str]) -> Inputs:
    """Inputs without which some classes do not run."""
    parameters = inspect.signature(model.forward).parameters
    inputs: Inputs = {}
    for name in names:
        required = parameters[name].default is inspect.Parameter.empty
        if name == "hidden_states" and required:
            inputs[name] = torch.randn(BATCH, LENGTH, find(model.config, "hidden_size", "d_model") or WIDTH)
        elif name == "encoder_hidden_states" and required:
            inputs[name] = torch.randn(BATCH, LENGTH, find(model.config, "encoder_hidden_size", "hidden_size") or WIDTH)
        elif name in ("attention_mask", "pixel_mask") and required and name == "attention_mask":
            inputs[name] = torch.ones(BATCH, LENGTH, dtype=torch.long)
    return inputs


PLACEHOLDER_COUNTS = (
    re.compile(r"tokens: (?P<tokens>\d+),? (?:and )?(?:length of )?features:? (?P<features>\d+)", re.I),
    re.compile(r"tokens:? (?P<tokens>\d+)\D+features:? (?P<features>\d+)", re.I),
)
PLACEHOLDER_NAMES = {
    "image": ("image_token_id", "image_token_index", "image_patch_id"),
    "video": ("video_token_id", "video_token_index"),
    "audio": ("audio_token_id", "audio_token_index"),
}


def add_placeholders(model: PreTrainedModel, inputs: Inputs, message: str) -> Inputs | None:
    """Give the text as many placeholder tokens as an error message asks for; None when it does not ask."""
    if "input_ids" not in inputs:
        return None
    for pattern in PLACEHOLDER_COUNTS:
        found = pattern.search(message)
        if found:
            break
    else:
        return None
    features = int(found["features"])
    batch = inputs["input_ids"].shape[0]
    text_width = getattr(model.config.get_text_config(), "hidden_size", None) or WIDTH
    if features // batch > 60 and features % (batch * text_width) == 0:
        features //= text_width  # some models count numbers, not tokens
    if int(found["tokens"]) != 0 or features % batch:
        return None
    kind = next((kind for kind in PLACEHOLDER_NAMES if kind in message.lower()), "image")
    token = find(model.config, *PLACEHOLDER_NAMES[kind])
    if token is None or features // batch > 600:
        return None
    placeholders = torch.full((batch, features // batch), token)
    text = inputs["input_ids"]
    changed = {**inputs, "input_ids": torch.cat([text[:, :2], placeholders, text[:, 2:]], dim=1)}
    if "attention_mask" in inputs:
        changed["attention_mask"] = padding_mask(changed["input_ids"])
    if "mm_token_type_ids" in inputs:
        changed["mm_token_type_ids"] = (changed["input_ids"] == token).long()
    return changed
