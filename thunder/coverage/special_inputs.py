"""Inputs of model types whose forward takes more than text, an image or sound.

Input: a tiny model. Output: keyword arguments for its forward. Where a type is listed here, nothing else is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from thunder.coverage.model_inputs import BATCH, FRAMES, LENGTH, Inputs, find, tokens
from thunder.coverage.tiny_configuration import WIDTH


def time_series(model: PreTrainedModel) -> Inputs:
    """A past long enough for all lags, and a future."""
    past = model.config.context_length + max(model.config.lags_sequence)
    features = model.config.num_time_features
    return {
        "past_values": torch.randn(BATCH, past),
        "past_time_features": torch.randn(BATCH, past, features),
        "past_observed_mask": torch.ones(BATCH, past),
        "future_values": torch.randn(BATCH, model.config.prediction_length),
        "future_time_features": torch.randn(BATCH, model.config.prediction_length, features),
    }


def patched_time_series(model: PreTrainedModel) -> Inputs:
    """Several channels over time."""
    return {"past_values": torch.randn(BATCH, model.config.context_length, model.config.num_input_channels)}


def timesfm(model: PreTrainedModel) -> Inputs:
    """A batch of series with padding marks and frequencies."""
    length = 4 * model.config.patch_length
    return {
        "past_values": torch.randn(BATCH, length),
        "past_values_padding": torch.zeros(BATCH, length, dtype=torch.long),
        "freq": torch.zeros(BATCH, 1, dtype=torch.long),
    }


def timesfm_list(model: PreTrainedModel) -> Inputs:
    """A list of series."""
    return {"past_values": [torch.randn(4 * model.config.patch_length) for _ in range(BATCH)]}


def decision_transformer(model: PreTrainedModel) -> Inputs:
    """Trajectories of states, actions and returns."""
    state, action = model.config.state_dim, model.config.act_dim
    return {
        "states": torch.randn(BATCH, 5, state),
        "actions": torch.randn(BATCH, 5, action),
        "rewards": torch.randn(BATCH, 5, 1),
        "returns_to_go": torch.randn(BATCH, 5, 1),
        "timesteps": torch.arange(5).expand(BATCH, 5).contiguous(),
        "attention_mask": torch.ones(BATCH, 5),
    }


def lxmert(model: PreTrainedModel) -> Inputs:
    """Text with features and positions of image regions."""
    return {
        "input_ids": tokens(model),
        "visual_feats": torch.randn(BATCH, 4, model.config.visual_feat_dim),
        "visual_pos": torch.rand(BATCH, 4, model.config.visual_pos_dim),
    }


def query_former(model: PreTrainedModel) -> Inputs:
    """Learned queries that look at image features."""
    return {
        "query_embeds": torch.randn(BATCH, 4, model.config.hidden_size),
        "encoder_hidden_states": torch.randn(BATCH, 6, model.config.encoder_hidden_size),
    }


def qformer_placeholders(model: PreTrainedModel) -> Inputs:
    """Text with one placeholder for each learned query."""
    placeholders = torch.full(
        (BATCH, model.config.num_query_tokens), find(model.config, "image_token_index", "image_token_id")
    )
    vision = model.config.vision_config
    inputs: Inputs = {
        "pixel_values": torch.randn(BATCH, 3, vision.image_size, vision.image_size),
        "input_ids": torch.cat([placeholders, tokens(model)], dim=1),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


def instruct_blip(model: PreTrainedModel) -> Inputs:
    """As above, with text for the query former."""
    return {**qformer_placeholders(model), "qformer_input_ids": tokens(model)}


def instruct_blip_video(model: PreTrainedModel) -> Inputs:
    """As above, with four frames."""
    frames, queries = 4, model.config.num_query_tokens
    token = find(model.config, "video_token_index", "video_token_id")
    inputs = instruct_blip(model)
    placeholders = torch.full((BATCH, frames * queries), token)
    size = model.config.vision_config.image_size
    inputs["pixel_values"] = torch.randn(BATCH, frames, 3, size, size)
    inputs["input_ids"] = torch.cat([placeholders, tokens(model)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


def pix2struct(model: PreTrainedModel) -> Inputs:
    """Flattened patches, each led by its row and column."""
    vision = model.config.vision_config
    width = (
        vision.num_channels * vision.patch_size**2
        if hasattr(vision, "num_channels")
        else vision.patch_embed_hidden_size
    )
    positions = torch.randint(1, 5, (BATCH, 9, 2)).float()
    return {
        "flattened_patches": torch.cat([positions, torch.randn(BATCH, 9, width)], dim=-1),
        "attention_mask": torch.ones(BATCH, 9),
        "decoder_input_ids": tokens(model, 7),
    }


def codebooks(model: PreTrainedModel) -> Inputs:
    """One row of audio codes for each codebook."""
    decoder = model.config.decoder
    rows = BATCH * decoder.num_codebooks
    return {
        "input_ids": torch.randint(5, 20, (BATCH, LENGTH)),
        "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
        "decoder_input_ids": torch.randint(0, min(decoder.vocab_size, 100), (rows, 6)),
    }


def oneformer(model: PreTrainedModel) -> Inputs:
    """An image and the tokens of a task."""
    return {
        "pixel_values": torch.randn(BATCH, 3, 64, 64),
        "task_inputs": torch.randint(0, 40, (BATCH, model.config.task_seq_len)).float(),
    }


def seggpt(model: PreTrainedModel) -> Inputs:
    """An image, and a prompt with its mask."""
    height, width = find(model.config, "image_size", kind=list | tuple)
    shape = (BATCH, 3, height // 2, width)
    return {
        "pixel_values": torch.randn(shape),
        "prompt_pixel_values": torch.randn(shape),
        "prompt_masks": torch.randn(shape),
    }


def flattened_siglip(model: PreTrainedModel) -> Inputs:
    """Patches of images of different shapes."""
    vision = getattr(model.config, "vision_config", model.config)
    width = vision.num_channels * vision.patch_size**2
    inputs: Inputs = {
        "pixel_values": torch.randn(BATCH, 16, width),
        "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * BATCH),
    }
    if "text_config" in vars(model.config) and type(model).__name__ == "Siglip2Model":
        inputs["input_ids"] = tokens(model)
    return inputs


def gemma3n_audio(model: PreTrainedModel) -> Inputs:
    """A mel spectrogram with a mask of what is invalid."""
    return {
        "audio_mel": torch.randn(BATCH, 64, model.config.input_feat_size),
        "audio_mel_mask": torch.zeros(BATCH, 64, dtype=torch.bool),
    }


def kimi_vision(model: PreTrainedModel) -> Inputs:
    """Unflattened patches with their grid."""
    patch = model.config.patch_size
    return {"pixel_values": torch.randn(16, 3, patch, patch), "grid_thw": torch.tensor([[1, 4, 4]])}


def merged_grid(model: PreTrainedModel) -> Inputs:
    """Flattened patches, their grid and how many of them merge."""
    patch = model.config.patch_size
    return {
        "pixel_values": torch.randn(16, 3 * patch**2),
        "grid_thw": torch.tensor([[1, 4, 4]]),
        "merge_sizes": torch.tensor([2]),
    }


def pixel_positions(model: PreTrainedModel) -> Inputs:
    """Flattened patches with their positions."""
    positions = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing="xy"), dim=-1).reshape(1, 36, 2)
    return {
        "pixel_values": torch.rand(BATCH, 36, 3 * model.config.patch_size**2),
        "pixel_position_ids": positions.expand(BATCH, 36, 2).contiguous(),
    }


def sound_and_features(model: PreTrainedModel) -> Inputs:
    """A waveform with the spectrogram that a second encoder reads."""
    return {
        "input_values": torch.randn(BATCH, 1, 3200),
        "input_features": torch.randn(BATCH, 10, find(model.config, "feature_projection_input_dim") or 160),
    }


def text_line(model: PreTrainedModel) -> Inputs:
    """An image of one line of text."""
    return {"pixel_values": torch.randn(BATCH, 3, 96, 160)}


def draft_model(model: PreTrainedModel) -> Inputs:
    """Noise and the hidden states of the model that it assists."""
    width = model.config.hidden_size or WIDTH
    layers = find(model.config, "target_layer_ids", kind=list | tuple) or [0]
    return {
        "noise_embeds": torch.randn(BATCH, 4, width),
        "context_hidden_states": torch.randn(BATCH, LENGTH, width * len(layers)),
    }


def latents_first(model: PreTrainedModel) -> Inputs:
    """Latent channels before frames."""
    return {"latents": torch.randn(BATCH, model.config.hidden_size, 8)}


def waveform(model: PreTrainedModel) -> Inputs:
    """One channel of sound, under the name of hidden states."""
    return {"hidden_states": torch.randn(BATCH, 1, 3200)}


def latent_channels(model: PreTrainedModel) -> Inputs:
    """Latent frames, under the name of hidden states."""
    return {"hidden_states": torch.randn(BATCH, model.config.hidden_size, 8)}


def masked_features(width: int, length: int, features_first: bool = False) -> Callable[[PreTrainedModel], Inputs]:
    """A spectrogram and its mask."""

    def inputs(model: PreTrainedModel) -> Inputs:
        shape = (BATCH, width, length) if features_first else (BATCH, length, width)
        return {
            "input_features": torch.randn(shape),
            "input_features_mask": torch.ones(BATCH, length, dtype=torch.long),
        }

    return inputs


def gemma4_audio(model: PreTrainedModel) -> Inputs:
    """A mel spectrogram and a mask of its valid frames."""
    return {"input_features": torch.randn(BATCH, 64, 128), "attention_mask": torch.ones(BATCH, 64, dtype=torch.bool)}


def idefics(model: PreTrainedModel) -> Inputs:
    """Text whose every token looks at one image."""
    size = model.config.vision_config.image_size
    text = tokens(model)
    return {
        "input_ids": text,
        "attention_mask": torch.ones_like(text),
        "pixel_values": torch.randn(BATCH, 1, 3, size, size),
        "image_attention_mask": torch.ones(BATCH, LENGTH, 1, dtype=torch.long),
    }


def robot(model: PreTrainedModel) -> Inputs:
    """What one camera sees, an instruction, the state of a robot and noise to make actions of."""
    image = model.config.vlm_config.vision_config.image_size
    patches = (image // model.config.vlm_config.vision_config.patch_size) ** 2
    placeholders = torch.full((BATCH, patches), model.config.vlm_config.image_token_id)
    text = torch.cat([placeholders, tokens(model)], dim=1)
    return {
        "state": torch.randn(BATCH, model.config.max_state_dim),
        "noise": torch.randn(BATCH, model.config.chunk_size, model.config.max_action_dim),
        "timestep": torch.rand(BATCH),
        "input_ids": text,
        "attention_mask": torch.ones_like(text),
        "pixel_values": torch.randn(BATCH, 1, 3, image, image),
        "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool),
    }


def sound_and_video(model: PreTrainedModel) -> Inputs:
    """A waveform and the frames of a video."""
    return {"input_values": torch.randn(BATCH, 1, 4000), "pixel_values_videos": torch.randn(BATCH, 2, 3, 64, 64)}


def text_without_cache(model: PreTrainedModel) -> Inputs:
    """Text; the cache that the model would make by itself asks for sizes that its configuration does not have."""
    text = tokens(model)
    return {"input_ids": text, "attention_mask": torch.ones_like(text), "use_cache": False}


def single_video(model: PreTrainedModel) -> Inputs:
    """A video and a question about it; grids of positions are made for one video only."""
    text = tokens(model, batch=1)
    frames, size = model.config.num_frames, model.config.max_img_size
    video = torch.randn(1, frames, 3, size, size)
    return {"input_ids": text, "attention_mask": torch.ones_like(text), "pixel_values": video}


def kosmos(model: PreTrainedModel) -> Inputs:
    """Text in which marked positions take the image's latent queries."""
    queries, size = model.config.latent_query_num, model.config.vision_config.image_size
    text = tokens(model, queries + LENGTH)
    mask = torch.zeros_like(text)
    mask[:, 1 : queries + 1] = 1
    return {
        "pixel_values": torch.randn(BATCH, 3, size, size),
        "input_ids": text,
        "attention_mask": torch.ones_like(text),
        "image_embeds_position_mask": mask,
    }


def codes(model: PreTrainedModel) -> Inputs:
    """Text and audio codes side by side."""
    return {"input_ids": torch.randint(1, 20, (BATCH, LENGTH, model.config.num_codebooks + 1))}


def dia(model: PreTrainedModel) -> Inputs:
    """Text, and one channel of codes for each codebook."""
    channels = model.config.decoder_config.num_channels
    return {"input_ids": tokens(model), "decoder_input_ids": torch.randint(1, 20, (BATCH, 7, channels))}


def voxtral_realtime(model: PreTrainedModel) -> Inputs:
    """As many text tokens as audio frames."""
    bins = model.config.audio_config.num_mel_bins
    return {"input_ids": tokens(model, 8), "input_features": torch.randn(BATCH, bins, 64)}


def target_sizes(model: PreTrainedModel) -> Inputs:
    """Patches of several images side by side, with the grid of each."""
    patch = model.config.patch_size
    return {
        "pixel_values": torch.randn(1, 3, patch, BATCH * 16 * patch),
        "target_sizes": torch.tensor([[4, 4]] * BATCH),
    }


def detection_with_text(model: PreTrainedModel) -> Inputs:
    """An image, names of classes and a task."""
    classes = torch.randint(3, 60, (3, 6))
    task = torch.randint(3, 60, (BATCH, 6))
    return {
        "pixel_values": torch.randn(BATCH, 3, 224, 224),
        "classes_input_ids": classes,
        "classes_attention_mask": torch.ones_like(classes),
        "tasks_input_ids": task,
        "tasks_attention_mask": torch.ones_like(task),
        "classes_structure": torch.tensor([2, 1]),
    }


def stacked_frames(model: PreTrainedModel) -> Inputs:
    """Spectrograms whose frames are stacked four at a time."""
    return {"input_features": torch.randn(BATCH, FRAMES, 4 * find(model.config, "num_mel_bins"))}


def whole_frames(model: PreTrainedModel) -> Inputs:
    """Sound of exactly two frames."""
    return {"input_values": torch.randn(BATCH, 2 * model.config.samples_per_token)}


def marked_prompt(model: PreTrainedModel) -> Inputs:
    """One prompt with two questions, and where each ends."""
    return {
        "input_ids": tokens(model, batch=1),
        "marks": torch.tensor([[5, 9]]),
        "num_options": torch.tensor([[2, 3]]),
        "question_type_ids": torch.tensor([[0, 1]]),
    }


def large_image(model: PreTrainedModel) -> Inputs:
    """An image that can still be scaled down by four."""
    return {"pixel_values": torch.randn(BATCH, 3, 256, 256)}


SPECIAL_INPUTS: dict[str, Callable[[Any], Inputs]] = {
    "autoformer": time_series,
    "informer": time_series,
    "time_series_transformer": time_series,
    "patchtst": patched_time_series,
    "patchtsmixer": patched_time_series,
    "timesfm": timesfm,
    "timesfm2_5": timesfm_list,
    "decision_transformer": decision_transformer,
    "lxmert": lxmert,
    "blip_2_qformer": query_former,
    "blip-2": qformer_placeholders,
    "instructblip": instruct_blip,
    "instructblipvideo": instruct_blip_video,
    "pix2struct": pix2struct,
    "musicgen": codebooks,
    "musicgen_melody": codebooks,
    "oneformer": oneformer,
    "seggpt": seggpt,
    "siglip2": flattened_siglip,
    "siglip2_vision_model": flattened_siglip,
    "gemma3n_audio": gemma3n_audio,
    "kimi_k25_vision": kimi_vision,
    "video_llama_3_vision": merged_grid,
    "gemma4_vision": pixel_positions,
    "neucodec": sound_and_features,
    "xcodec2": sound_and_features,
    "muse_glimmer_assistant": draft_model,
    "mimi_decoder": latents_first,
    "pocket_tts_audio_tokenizer_decoder": latents_first,
    "vibevoice_acoustic_tokenizer_encoder": waveform,
    "vibevoice_acoustic_tokenizer_decoder": latent_channels,
    "fun_asr_nano_encoder": masked_features(560, 20),
    "qwen3_asr_encoder": masked_features(128, 200, features_first=True),
    "gemma4_audio": gemma4_audio,
    "idefics": idefics,
    "kosmos-2": kosmos,
    "kyutai_speech_to_text": codes,
    "dia": dia,
    "voxtral_realtime": voxtral_realtime,
    "minicpm_ocr_vision": target_sizes,
    "minicpmv4_7_vision": target_sizes,
    "pp_ocrv5_mobile_rec": text_line,
    "omdet-turbo": detection_with_text,
    "granite_speech5_ctc": stacked_frames,
    "granite_speech5_encoder": stacked_frames,
    "jev": marked_prompt,
    "pe_audio_video_encoder": sound_and_video,
    "blt": text_without_cache,
    "pi0": robot,
    "tvp": single_video,
    "depth_pro": large_image,
    "muse_spark_audio": whole_frames,
}
