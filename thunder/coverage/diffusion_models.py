"""Tiny configurations and inputs of diffusers' models: UNets, transformers, autoencoders.

Input: nothing. Output: `DIFFUSION_MODELS`, by class name: constructor arguments and a function that makes the
forward's arguments. Sizes are the smallest that keep every kind of block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Arguments = dict[str, Any]
Entry = tuple[Arguments, Callable[[], Arguments]]

BATCH = 2
ATTENTION_UNET: Arguments = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "sample_size": 16,
}
AUTOENCODER: Arguments = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
HEADS: Arguments = {"num_attention_heads": 2, "attention_head_dim": 8}


def image(channels: int = 3, size: int = 32) -> torch.Tensor:
    """A batch of images."""
    return torch.randn(BATCH, channels, size, size)


def video(channels: int, frames: int, size: int) -> torch.Tensor:
    """A batch of videos, channels before frames."""
    return torch.randn(BATCH, channels, frames, size, size)


def text(width: int, length: int = 5) -> torch.Tensor:
    """Embedded text."""
    return torch.randn(BATCH, length, width)


def steps(dtype: torch.dtype = torch.long) -> torch.Tensor:
    """A point of time for each element of the batch."""
    return torch.tensor([10, 20], dtype=dtype)


def conditioned(sample: torch.Tensor, width: int, name: str = "hidden_states") -> Arguments:
    """A noisy sample, its time and a text."""
    return {name: sample, "timestep": steps(), "encoder_hidden_states": text(width)}


def flux_inputs() -> Arguments:
    """Packed latents with positions of image and text."""
    return {
        "hidden_states": torch.randn(BATCH, 16, 4),
        "encoder_hidden_states": text(32),
        "pooled_projections": torch.randn(BATCH, 32),
        "timestep": torch.tensor([0.5, 0.7]),
        "img_ids": torch.randn(16, 3),
        "txt_ids": torch.randn(5, 3),
    }


DIFFUSION_MODELS: dict[str, Entry] = {
    # UNets
    "UNet2DModel": (
        {
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
            "sample_size": 16,
        },
        lambda: {"sample": image(3, 16), "timestep": steps()},
    ),
    "UNet2DConditionModel": (
        {
            **ATTENTION_UNET,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        lambda: conditioned(image(4, 16), 8, "sample"),
    ),
    "UNet3DConditionModel": (
        {
            **ATTENTION_UNET,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        },
        lambda: conditioned(video(4, 2, 16), 8, "sample"),
    ),
    "UNet1DModel": (
        {
            "block_out_channels": (8, 8, 16, 16),
            "in_channels": 14,
            "out_channels": 14,
            "time_embedding_type": "positional",
            "use_timestep_embedding": True,
            "flip_sin_to_cos": False,
            "freq_shift": 1.0,
            "mid_block_type": "MidResTemporalBlock1D",
            "down_block_types": ("DownResnetBlock1D",) * 4,
            "up_block_types": ("UpResnetBlock1D",) * 3,
            "act_fn": "swish",
            "out_block_type": "OutConv1DBlock",
        },
        lambda: {"sample": torch.randn(BATCH, 14, 16), "timestep": steps()},
    ),
    "UNetMotionModel": (
        {
            "block_out_channels": (16, 32),
            "norm_num_groups": 16,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "cross_attention_dim": 16,
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "layers_per_block": 1,
            "sample_size": 16,
        },
        lambda: conditioned(video(4, 4, 16), 16, "sample"),
    ),
    "UNetSpatioTemporalConditionModel": (
        {
            "block_out_channels": (32, 64),
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "cross_attention_dim": 32,
            "num_attention_heads": 8,
            "layers_per_block": 1,
            "sample_size": 16,
            "projection_class_embeddings_input_dim": 96,
            "addition_time_embed_dim": 32,
        },
        lambda: {
            "sample": torch.randn(BATCH, 2, 4, 16, 16),
            "timestep": steps(),
            "encoder_hidden_states": text(32, 1),
            "added_time_ids": torch.ones(BATCH, 3),
        },
    ),
    "ControlNetModel": (
        {
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "cross_attention_dim": 8,
            "attention_head_dim": 4,
            "conditioning_embedding_out_channels": (16, 32),
        },
        lambda: {**conditioned(image(4, 32), 8, "sample"), "controlnet_cond": image(3, 64)},
    ),
    # Autoencoders
    "AutoencoderKL": (AUTOENCODER, lambda: {"sample": image()}),
    "VQModel": (
        {**AUTOENCODER, "num_vq_embeddings": 16, "latent_channels": 3},
        lambda: {"sample": image()},
    ),
    "AsymmetricAutoencoderKL": (
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "down_block_out_channels": (8, 16),
            "up_block_out_channels": (8, 16),
            "norm_num_groups": 4,
        },
        lambda: {"sample": image(), "mask": torch.ones(BATCH, 1, 32, 32)},
    ),
    "AutoencoderTiny": (
        {
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
        },
        lambda: {"sample": image()},
    ),
    "AutoencoderKLTemporalDecoder": (
        {"block_out_channels": (32, 64), "latent_channels": 4, "down_block_types": ("DownEncoderBlock2D",) * 2},
        lambda: {"sample": image(), "num_frames": 2},
    ),
    "AutoencoderDC": (
        {
            "in_channels": 3,
            "latent_channels": 4,
            "attention_head_dim": 2,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "decoder_norm_types": "rms_norm",
            "decoder_act_fns": "silu",
        },
        lambda: {"sample": image()},
    ),
    "AutoencoderKLCogVideoX": (
        {
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 2,
        },
        lambda: {"sample": video(3, 5, 16)},
    ),
    "AutoencoderKLWan": (
        {
            "base_dim": 3,
            "z_dim": 16,
            "dim_mult": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
        },
        lambda: {"sample": video(3, 5, 16)},
    ),
    "AutoencoderOobleck": (
        {
            "encoder_hidden_size": 12,
            "decoder_channels": 12,
            "decoder_input_channels": 6,
            "audio_channels": 2,
            "downsampling_ratios": [2, 4],
            "channel_multiples": [1, 2],
        },
        lambda: {"sample": torch.randn(BATCH, 2, 256)},
    ),
    # Transformers
    "Transformer2DModel": (
        {**HEADS, "in_channels": 16, "num_layers": 1, "norm_num_groups": 4, "cross_attention_dim": 8},
        lambda: {"hidden_states": image(16, 8), "encoder_hidden_states": text(8)},
    ),
    "TransformerTemporalModel": (
        {**HEADS, "in_channels": 16, "num_layers": 1, "norm_num_groups": 4},
        lambda: {"hidden_states": torch.randn(4, 16, 8, 8), "num_frames": 2},
    ),
    "PriorTransformer": (
        {**HEADS, "num_layers": 2, "embedding_dim": 8, "num_embeddings": 7, "additional_embeddings": 4},
        lambda: {
            "hidden_states": torch.randn(BATCH, 8),
            "timestep": steps(),
            "proj_embedding": torch.randn(BATCH, 8),
            "encoder_hidden_states": text(8, 7),
        },
    ),
    "DiTTransformer2DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "sample_size": 8,
            "norm_num_groups": 4,
            "num_embeds_ada_norm": 8,
        },
        lambda: {"hidden_states": image(4, 8), "timestep": torch.tensor([1, 2]), "class_labels": torch.tensor([1, 2])},
    ),
    "PixArtTransformer2DModel": (
        {
            **HEADS,
            "num_layers": 2,
            "sample_size": 8,
            "cross_attention_dim": 16,
            "caption_channels": 8,
            "in_channels": 4,
            "use_additional_conditions": False,
        },
        lambda: {**conditioned(image(4, 8), 8), "added_cond_kwargs": {"aspect_ratio": None, "resolution": None}},
    ),
    "SD3Transformer2DModel": (
        {
            **HEADS,
            "sample_size": 16,
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 64,
            "out_channels": 4,
            "pos_embed_max_size": 96,
        },
        lambda: {**conditioned(image(4, 16), 32), "pooled_projections": torch.randn(BATCH, 64)},
    ),
    "FluxTransformer2DModel": (
        {
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": [4, 4, 8],
        },
        flux_inputs,
    ),
    "ChromaTransformer2DModel": (
        {
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "axes_dims_rope": [4, 4, 8],
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        lambda: {name: value for name, value in flux_inputs().items() if name != "pooled_projections"},
    ),
    "AuraFlowTransformer2DModel": (
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "caption_projection_dim": 32,
            "joint_attention_dim": 32,
            "out_channels": 4,
            "pos_embed_max_size": 256,
        },
        lambda: conditioned(image(4, 8), 32),
    ),
    "CogVideoXTransformer3DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 2,
            "text_embed_dim": 8,
            "num_layers": 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 8,
            "patch_size": 2,
            "temporal_compression_ratio": 4,
            "max_text_seq_length": 8,
        },
        lambda: {
            "hidden_states": torch.randn(BATCH, 1, 4, 8, 8),
            "timestep": steps(),
            "encoder_hidden_states": text(8, 8),
        },
    ),
    "CogView4Transformer2DModel": (
        {
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 4,
            "num_attention_heads": 4,
            "out_channels": 4,
            "text_embed_dim": 8,
            "time_embed_dim": 8,
            "condition_dim": 4,
        },
        lambda: {
            **conditioned(image(4, 8), 8),
            "original_size": torch.tensor([[8.0, 8.0]] * BATCH),
            "target_size": torch.tensor([[8.0, 8.0]] * BATCH),
            "crop_coords": torch.tensor([[0.0, 0.0]] * BATCH),
        },
    ),
    "LatteTransformer3DModel": (
        {
            **HEADS,
            "sample_size": 8,
            "num_layers": 1,
            "patch_size": 2,
            "caption_channels": 8,
            "in_channels": 4,
            "cross_attention_dim": 16,
            "out_channels": 8,
            "norm_elementwise_affine": False,
        },
        lambda: conditioned(video(4, 1, 8), 8),
    ),
    "AllegroTransformer3DModel": (
        {
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "cross_attention_dim": 48,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 2,
            "caption_channels": 24,
        },
        lambda: {
            **conditioned(video(4, 2, 8), 24),
            "attention_mask": torch.ones(BATCH, 2, 8, 8),
            "encoder_attention_mask": torch.ones(BATCH, 5),
            "image_rotary_emb": allegro_positions(),
        },
    ),
    "LTXVideoTransformer3DModel": (
        {
            "in_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": 16,
            "qk_norm": "rms_norm_across_heads",
        },
        lambda: {
            "hidden_states": torch.randn(BATCH, 32, 4),
            "encoder_hidden_states": text(16),
            "timestep": torch.rand(BATCH),
            "encoder_attention_mask": torch.ones(BATCH, 5, dtype=torch.bool),
            "num_frames": 2,
            "height": 4,
            "width": 4,
        },
    ),
    "MochiTransformer3DModel": (
        {
            "patch_size": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 4,
            "max_sequence_length": 16,
        },
        lambda: {**conditioned(video(4, 2, 8), 16), "encoder_attention_mask": torch.ones(BATCH, 5, dtype=torch.bool)},
    ),
    "WanTransformer3DModel": (
        {
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 16,
            "freq_dim": 256,
            "ffn_dim": 32,
            "num_layers": 2,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "rope_max_seq_len": 32,
        },
        lambda: conditioned(video(4, 2, 8), 16),
    ),
    "SanaTransformer2DModel": (
        {
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 4,
            "num_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 4,
            "cross_attention_dim": 8,
            "caption_channels": 8,
            "sample_size": 16,
        },
        lambda: conditioned(image(4, 16), 8),
    ),
    "Lumina2Transformer2DModel": (
        {
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 2,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (128, 128, 128),
            "cap_feat_dim": 8,
        },
        lambda: {
            "hidden_states": image(4, 16),
            "encoder_hidden_states": text(8),
            "timestep": torch.rand(BATCH),
            "encoder_attention_mask": torch.ones(BATCH, 5, dtype=torch.bool),
        },
    ),
    "HunyuanVideoTransformer3DModel": (
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "patch_size_t": 1,
            "guidance_embeds": True,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
        lambda: {
            **conditioned(video(4, 1, 8), 16),
            "pooled_projections": torch.randn(BATCH, 8),
            "encoder_attention_mask": torch.ones(BATCH, 5),
            "guidance": torch.tensor([3.0, 4.0]),
        },
    ),
    "QwenImageTransformer2DModel": (
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "axes_dims_rope": (8, 4, 4),
        },
        lambda: {
            "hidden_states": torch.randn(BATCH, 16, 16),
            "encoder_hidden_states": text(16),
            "encoder_hidden_states_mask": torch.ones(BATCH, 5, dtype=torch.bool),
            "timestep": torch.rand(BATCH),
            "img_shapes": [[(1, 4, 4)]] * BATCH,
        },
    ),
}


def allegro_positions() -> Any:
    """Rotary embeddings and grids for frames, rows and columns of a tiny latent video."""
    tables = [
        (torch.randn(2, 8), torch.randn(2, 8)),
        (torch.randn(4, 8), torch.randn(4, 8)),
        (torch.randn(4, 8), torch.randn(4, 8)),
    ]
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4))
    return tables, [grid[:, axis][None] for axis in range(3)]
