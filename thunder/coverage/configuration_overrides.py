"""What the general rules cannot know about single model types.

`CONFIGURATIONS`: field values that win over the rules, by model type; a nested mapping goes to the
sub-configuration of that name. `CLASSES`: the class to build where the general preference picks one that does not
show the architecture, or cannot run alone. Every group says what it repairs.
"""

from __future__ import annotations

from typing import Any

from transformers import ResNetConfig, TimmWrapperConfig

SMALL_ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
HALF_ROTARY = {**SMALL_ROTARY, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
TIME_SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3]}

FEATURES_OF_RESNET = {
    "backbone_channel_list": [1024, 512, 256, 64],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}


def small_resnet() -> ResNetConfig:
    """A convolutional backbone that needs no other library."""
    sizes = [16, 32, 64, 64]
    return ResNetConfig(
        embedding_size=16,
        hidden_sizes=sizes,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],  # type: ignore[call-arg]
    )


def small_perception_encoder() -> TimmWrapperConfig:
    """The smallest of the vision towers that the perception encoders take from timm."""
    return TimmWrapperConfig(
        architecture="vit_pe_core_tiny_patch16_384",
        do_pooling=True,  # type: ignore[call-arg]
        num_classes=64,
        global_pool="map",
        model_args={"img_size": [64, 64]},
    )


LAYERS_OF_GEMMA3N: dict[str, Any] = {
    "num_hidden_layers": 5,
    "intermediate_size": 128,
    "activation_sparsity_pattern": [0.0] * 5,
    "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
    "num_kv_shared_layers": 0,
}
INDEXER = {
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # The inner width of a state-space layer is heads times head width; a hybrid needs one attention layer.
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "expand": 2, "state_size": 16},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "attn_layer_indices": [1]},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128, "mamba_d_state": 16},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "layer_types": ["mamba", "attention"],
    },
    "xlstm": {"num_heads": 4, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "zamba": {"num_hidden_layers": 9, "layers_block_type": None},
    # Lists that must have one entry a layer.
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gemma3n": {"text_config": LAYERS_OF_GEMMA3N},
    "gemma3n_text": LAYERS_OF_GEMMA3N,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "deepseek_ocr2": {
        "text_config": {
            "mlp_layer_types": ["dense", "sparse"],
            "num_hidden_layers": 2,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
        "vision_config": {"sam_config": {"downsample_channels": [64, 64]}},
    },
    # Sections of rotary embeddings that a model falls back to fit only heads of 128.
    **{
        name: {"text_config": {"rope_parameters": HALF_ROTARY}}
        for name in ("glm4v", "glm46v", "glmga", "glm4v_moe", "glm_ocr", "glm_image")
    },
    **{
        name: {"rope_parameters": HALF_ROTARY}
        for name in ("glm4v_text", "glm4v_moe_text", "glm_ocr_text", "glm_image_text")
    },
    **{name: {"text_config": {"rope_parameters": SMALL_ROTARY}} for name in ("qwen2_vl", "qwen2_5_vl", "paddleocr_vl")},
    **{name: {"rope_parameters": SMALL_ROTARY} for name in ("qwen2_vl_text", "qwen2_5_vl_text", "paddleocr_vl_text")},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROTARY, "sliding_attention": ROTARY}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROTARY, "sliding_attention": ROTARY}}},
    # Sizes that a class leaves open and its model needs.
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "blip-2": {"image_token_index": 100},
    "instructblip": {"image_token_index": 100},
    "instructblipvideo": {"image_token_index": 100, "video_token_index": 101},
    "qwen2_5_omni_thinker": {
        "vision_start_token_id": 110,
        "text_config": {"rope_parameters": SMALL_ROTARY},
    },
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 110},
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {"text_config": INDEXER},
    "hunyuan_vl": {"text_config": {"rope_parameters": {**ROTARY, "mrope_section": [2, 2, 2, 2]}}},
    "hunyuan_vl_text": {"rope_parameters": {**ROTARY, "mrope_section": [2, 2, 2, 2]}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8}},
    "timm_backbone": {"backbone": "test_resnet"},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "blt": {"encoder_hash_byte_group_vocab": 512},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}},
    "step3p7": {"text_config": {"sliding_window": 16}},
    "chameleon": {
        "vocabulary_map": {"<image>": 100, "IMGIMGA": 101, "IMGIMGB": 102},
        "vq_config": {"num_embeddings": 4},
    },
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "downsample_rate": "1/2"},
    "molmo2": {"vision_config": {"num_hidden_layers": 3}, "adapter_config": {"vision_feature_layer": [2, 1]}},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 16}},
    "moonshine_streaming": {"num_key_value_heads": 4, "head_dim": 16, "encoder_hidden_size": 64},
    "xmod": {"default_language": "en_XX"},
    "t5gemma2_encoder": {"text_config": {"dropout_rate": 0.0}},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "muse_spark": {"audio_config": {"num_hidden_layers": 4}, "vision_config": {"patch_temporal": 1}},
    # Towers of another library.
    "pe_video_encoder": {"vision_config": small_perception_encoder()},
    "pe_video": {"video_config": {"vision_config": small_perception_encoder()}},
    "pe_audio_video_encoder": {"video_config": {"vision_config": small_perception_encoder()}},
    "pe_audio_video": {"audio_video_config": {"video_config": {"vision_config": small_perception_encoder()}}},
    # Convolutions whose groups follow a width.
    "csm": {"codec_config": {"upsample_groups": 64}},
    "kyutai_speech_to_text": {"codec_config": {"upsample_groups": 64}},
    "mimi_decoder": {"upsample_groups": 64},
    "mimi": {"upsample_groups": 64},
    "pocket_tts_audio_tokenizer_decoder": {"upsample_groups": 64},
    # Time series need to know how far to look back and ahead.
    "autoformer": {**TIME_SERIES, "label_length": 4, "moving_average": 3},
    "informer": TIME_SERIES,
    "time_series_transformer": TIME_SERIES,
    # Images as large as something else in the configuration wants them.
    "pvt": {"num_encoder_blocks": 4, "image_size": 64},
    "eomt": {"num_hidden_layers": 3, "num_blocks": 1},
    "eomt_dinov3": {"num_hidden_layers": 3, "num_blocks": 1},
    "depth_pro": {
        "patch_size": 64,
        **{
            name: {"image_size": 64, "patch_size": 16}
            for name in ("image_model_config", "patch_model_config", "fov_model_config")
        },
    },
    "vitmatte": {"fusion_hidden_sizes": [64, 32, 16, 8], "convstream_hidden_sizes": [16, 32, 64]},
    **{
        name: {"vision_config": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}}
        for name in ("sam3_tracker", "sam3_tracker_video")
    },
    "donut-swin": {"embed_dim": 48, "depths": [1, 1], "num_heads": [3, 6]},
    "gemma3": {"mm_tokens_per_image": 4},
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "aria": {"projector_patch_to_query_dict": {16: 8}},
    "siglip2": {"vision_config": {"num_patches": 16}},
    "siglip2_vision_model": {"num_patches": 16},
    "tvp": {"max_img_size": 64, "visual_prompt_size": 8, "num_frames": 2},
    "muse_glimmer_vision": {"patch_temporal": 1},
    "muse_spark_vision": {"patch_temporal": 1},
    "muse_glimmer": {"vision_config": {"patch_temporal": 1}},
    "sam2_hiera_det_model": {"image_size": [64, 64]},
    "sam2_vision_model": {
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "backbone_config": {"hidden_size": 96, "image_size": [64, 64], "num_attention_heads": 1},
    },
    "sam2": {
        "vision_config": {
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "backbone_config": {"hidden_size": 96, "image_size": [64, 64], "num_attention_heads": 1},
        },
        "prompt_encoder_config": {"image_size": 64},
    },
    # The backbone that these fall back to has other channels than the ones that they expect.
    "edgetam_vision_model": FEATURES_OF_RESNET,
    "patchtst": {"context_length": 16, "patch_length": 4, "patch_stride": 4, "num_input_channels": 2},
    "patchtsmixer": {"context_length": 16, "patch_length": 4, "patch_stride": 4, "num_input_channels": 2},
    # Audio codecs that double their width at every stage.
    **{
        name: {"num_filters": 4, "depths": [1] * 7}
        for name in (
            "vibevoice_acoustic_tokenizer",
            "vibevoice_acoustic_tokenizer_encoder",
            "vibevoice_acoustic_tokenizer_decoder",
        )
    },
    "vibevoice": {
        "audio_config": {"num_filters": 4, "depths": [1] * 7},
        "semantic_model_config": {"num_filters": 4, "depths": [1] * 7},
    },
    "vibevoice_asr": {
        "acoustic_tokenizer_encoder_config": {"num_filters": 4, "depths": [1] * 7},
        "semantic_tokenizer_encoder_config": {"num_filters": 4, "depths": [1] * 7},
    },
}

CLASSES: dict[str, str] = {
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}
