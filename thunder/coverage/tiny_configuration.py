"""Shrink a transformers configuration until its model has a few hundred thousand parameters.

Input: a configuration class. Output: an instance whose widths, depths, vocabularies, expert counts and images are
tiny, with the architecture otherwise as its defaults say: every kind of layer stays, sub-configurations shrink in
the same way, and sizes that must agree agree because equal rules give them.

Rules look at a field's name and default value. What rules cannot know stands in `configuration_overrides`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

WIDTH = 64
HEADS = 4
VOCABULARY = 128
FIRST_SPECIAL_TOKEN = 100
"""Placeholder tokens (image, audio, ...) get identities from here on; random text stays below."""
MAX_LAYERS_FOR_KINDS = 8


@dataclasses.dataclass(frozen=True)
class Scale:
    """How far to shrink: the width of a model, and whether widths shrink at all."""

    width: int | None = WIDTH

    @property
    def head_width(self) -> int | None:
        """Width of one attention head."""
        return None if self.width is None else self.width // HEADS


SCALES = (Scale(WIDTH), Scale(8 * WIDTH), Scale(None))
"""In the order in which they are tried: rotary embeddings of some models want heads of at least 128, and widths of
some convolutional models depend on each other in ways that only their defaults satisfy."""

Rule = Callable[[int, Scale], int]


def at_most(limit: int) -> Rule:
    """Cap a size."""
    return lambda default, scale: min(default, limit)


def width(default: int, scale: Scale) -> int:
    """A model width; small defaults are left alone, since they are often kernel sizes or feature counts."""
    return default if scale.width is None else min(default, scale.width)


def doubled_width(default: int, scale: Scale) -> int:
    """The inner width of a feed-forward block."""
    return default if scale.width is None else min(default, 2 * scale.width)


def head_width(default: int, scale: Scale) -> int:
    """The width of one attention head, or a rank of that order."""
    return default if scale.head_width is None else min(default, scale.head_width)


def heads(default: int, scale: Scale) -> int:
    """The number of attention heads."""
    return default if scale.width is None else min(default, HEADS)


def key_value_heads(default: int, scale: Scale) -> int:
    """The number of heads of keys and values, fewer than those of queries."""
    return default if scale.width is None else min(default, HEADS // 2)


SIZE_RULES: tuple[tuple[str, Rule], ...] = (
    (r"num_key_value_groups|num_attention_groups|pretraining_tp|chunk_size_feed_forward|n_groups?$", at_most(1)),
    (r"(num_)?(key_value|kv)_(attention_)?heads|num_kv_heads|multi_query_group_num", key_value_heads),
    (r"(num_)?(attention_|attn_|self_attn_)?heads?$|n_heads?$|_heads$|num_.*_heads$", heads),
    (r"(num_)?experts_per_tok(en)?|moe_top_?k|top_k_experts|moe_k$|num_selected_experts|n_activated", at_most(2)),
    (r"topk_group|top_k_group", at_most(1)),
    (r"(num_|n_)?(routed_|local_)?experts?$|moe_num_experts|num_moe_experts|zero_expert_num|n_expert", at_most(4)),
    (
        r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|num_nextn_predict_layers|num_mtp_layers",
        at_most(1),
    ),
    (
        r"(num|n)_(hidden_|encoder_|decoder_)?layers?$|_layers$|num_hidden_groups|^layers$|^[lxr]_layers$"
        r"|(^|_)depth$|num_encoder_blocks|num_stacks|num_self_attends_per_block|num_hidden_blocks",
        at_most(2),
    ),
    (
        r"vocab(ulary)?_size|vocab$|num_embeddings$|codebook_size|num_embeds$|vocab_size_base|n_vocab|buckets$",
        at_most(VOCABULARY),
    ),
    (r"head_out_channels|num_bpe_labels|num_wordpiece_labels|num_(qa|object|attr)_labels", at_most(VOCABULARY)),
    (
        r"max_.*position_embeddings|n_positions|n_ctx|max_(source|target|speech|text)_positions|max_seq_len",
        at_most(512),
    ),
    (r"sliding_window(_size)?$|attention_chunk_size|index_topk|keep_window_size|local_attention$", at_most(16)),
    (
        r"(^|_)(intermediate|ffn|feed_?forward|mlp)(_hidden)?_(size|dim)$|ffn_dim$|_ff$|^d_?ff$|d_inner|dim_feedforward"
        r"|n_inner|mlp_dim|linear_units|.*intermediate_size.*|feedforward_dim",
        doubled_width,
    ),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|hc_lowrank|.*_rank$", head_width),
    (r"(^|_)(head_dim|d_kv|d_head|dim_head|head_size|attention_head_size|kv_channels|key_dim|v_head_dim)$", head_width),
    (r"qk_(rope|nope)_head_dim|(linear|swa|global|cross|index|mamba)_.*head_dim", head_width),
    (
        r"hidden_size|(^|_)d_model|n_embd|embed(ding)?_(dim|size)|emb_dim|emb_size|hidden_dim(ension)?$|project(ion|or)?_(dim|size)"
        r"|(^|_)dim$|_hidden_(size|dim)|out_hidden_size|output_dim|input_dim|width$|descriptor_dim|in_dim$|out_dim$"
        r"|units$|cross_attention_dim|query_pre_attn_scalar|decoder_dim|lru_width|latent_dim|codevector_dim|tdnn_dim",
        width,
    ),
    (r"num_(object_)?queries|num_query_tokens|num_latents|n_latents|two_stage_num_proposals", at_most(16)),
    (r"num_(labels|classes)$", at_most(10)),
)
"""The first rule whose pattern is found in a field's name decides."""

DEPTH_LIST = re.compile(r"^(depths|num_block_repeats|n_attn_blocks|stage_num_blocks|block_sizes|stage_numb_of_layers)$")
KEPT_NAMES = re.compile(
    r"id2label|label2id|num_channels|in_channels|num_channel|spatial_merge|temporal_patch|_depth_bins"
)
TOKEN_NAME = re.compile(
    r"(token|pad|bos|eos|sep|cls|mask|unk|start|end|newline|patch)_(id|index|token_index)$|_token_ids?$"
)
LAYER_KIND_FIELDS = ("layer_types", "layers_block_type", "block_types", "attn_layers", "mlp_layer_types")


def tiny_configuration(
    configuration_class: type[PreTrainedConfig], overrides: Mapping[str, Any], scale: Scale = SCALES[0]
) -> PreTrainedConfig:
    """A small instance of a configuration class.

    `overrides` are field values that win; a nested mapping goes to the sub-configuration of that name.
    """
    given = construction_arguments(overrides)
    try:
        default = configuration_class(**given)
    except (TypeError, ValueError, StrictDataclassError):
        default = configuration_class(**overrides)  # some defaults contradict each other
    return shrink(default, overrides, scale)


def construction_arguments(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that the default instance needs as well: whole sub-configurations of another type."""
    return {name: value for name, value in overrides.items() if isinstance(value, PreTrainedConfig)}


def shrink(default: PreTrainedConfig, overrides: Mapping[str, Any], scale: Scale) -> PreTrainedConfig:
    """A small instance of the class of `default`, starting from its values."""
    special_tokens = iter(range(FIRST_SPECIAL_TOKEN, VOCABULARY))
    arguments: dict[str, Any] = {}
    derived = derived_values(type(default))
    for field in dataclasses.fields(default):
        value = attribute(default, field.name, field.default)
        override = overrides.get(field.name)
        if isinstance(value, PreTrainedConfig):
            if isinstance(override, PreTrainedConfig):
                arguments[field.name] = override
            else:
                arguments[field.name] = shrink(value, override or {}, scale)
        elif field.name in overrides:
            arguments[field.name] = override
        elif is_given(field, value, derived):
            arguments[field.name] = shrink_value(field.name, value, special_tokens, scale)
    if getattr(default, "out_features", None) is not None:
        keep_stages(default, arguments, overrides)
    else:
        arguments.update(layer_kinds(default, arguments, overrides))
    keep_equal_heads(default, arguments, overrides)
    fill_heads(default, arguments)
    if "image_size" in arguments and "image_size" not in overrides:
        arguments["image_size"] = tiny_image_size(arguments["image_size"], arguments.get("patch_size"))
    extra = {
        name: value for name, value in overrides.items() if name not in arguments and not isinstance(value, Mapping)
    }
    return type(default)(**arguments, **extra)


def derived_values(configuration_class: type[PreTrainedConfig]) -> PreTrainedConfig | None:
    """The class's own default instance: what it has in fields that default to None, it derives by itself."""
    try:
        return configuration_class()
    except (TypeError, ValueError):
        return None


def keep_stages(default: PreTrainedConfig, arguments: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """A backbone keeps its depth and the stages that its user reads."""
    for name in ("num_hidden_layers", "depths", "num_layers", "num_encoder_blocks"):
        if name in arguments and name not in overrides:
            arguments[name] = getattr(default, name)
    if not {"out_features", "out_indices"} & set(overrides):
        arguments["out_features"] = list(default.out_features)
        arguments.pop("out_indices", None)


def attribute(configuration: PreTrainedConfig, name: str, otherwise: Any = None) -> Any:
    """A field's value; `otherwise` for one that differs between layers, which the class then derives again."""
    try:
        return getattr(configuration, name, None)
    except RuntimeError:
        return None if otherwise is dataclasses.MISSING else otherwise


def keep_equal_heads(default: PreTrainedConfig, arguments: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Where keys have as many heads as queries, they still do."""
    for keys, queries in (
        ("num_key_value_heads", "num_attention_heads"),
        ("swa_num_key_value_heads", "swa_num_attention_heads"),
    ):
        same = attribute(default, keys) == attribute(default, queries)
        if same and keys in arguments and keys not in overrides and isinstance(arguments.get(queries), int):
            arguments[keys] = arguments[queries]


def fill_heads(default: PreTrainedConfig, arguments: dict[str, Any]) -> None:
    """Head sizes that the class leaves open and the model needs."""
    declared = {field.name for field in dataclasses.fields(default)}
    queries, size = arguments.get("num_attention_heads"), arguments.get("hidden_size")
    if not isinstance(queries, int) or not isinstance(size, int):
        return
    for name, value in (("num_key_value_heads", queries), ("head_dim", size // queries)):
        if name in declared and name not in arguments and attribute(default, name) is None:
            arguments[name] = value


def is_given(field: dataclasses.Field[Any], value: Any, derived: PreTrainedConfig | None) -> bool:
    """False for values that the class derives when they are left out, and for fields that say nothing of size."""
    if KEPT_NAMES.search(field.name) or field.name in ("dtype", "architectures", "transformers_version"):
        return False
    if value is None or isinstance(value, bool):
        return value is not field.default
    if field.default is None:
        explicit = derived is not None and attribute(derived, field.name) != value
        return explicit or bool(TOKEN_NAME.search(field.name)) or (isinstance(value, dict) and "mrope_section" in value)
    return True


def shrink_value(name: str, value: Any, special_tokens: Any, scale: Scale) -> Any:
    """The small form of one field's value."""
    if TOKEN_NAME.search(name):
        return shrink_tokens(value, special_tokens)
    if isinstance(value, int) and not isinstance(value, bool):
        return shrink_size(name, value, scale)
    if DEPTH_LIST.search(name) and isinstance(value, Sequence):
        kind: Any = type(value)
        return kind(min(depth, 1) if isinstance(depth, int) else depth for depth in value)
    if isinstance(value, dict):
        return {key: shrink_entry(str(key), item, special_tokens, scale) for key, item in value.items()}
    return value


def shrink_entry(key: str, value: Any, special_tokens: Any, scale: Scale) -> Any:
    """The small form of one entry of a dictionary in a configuration."""
    if key == "mrope_section":
        return value if scale.head_width is None else shrink_sections(value, scale.head_width // 2)
    if value is None or isinstance(value, bool | float | str):
        return value
    return shrink_value(key, value, special_tokens, scale)


def shrink_size(name: str, value: int, scale: Scale) -> int:
    """Apply the first rule that knows the name."""
    for pattern, rule in SIZE_RULES:
        if re.search(pattern, name):
            return rule(value, scale)
    return value


def shrink_tokens(value: Any, special_tokens: Any) -> Any:
    """Token identities inside the tiny vocabulary; large ones become distinct special tokens."""
    if isinstance(value, list | tuple):
        return type(value)(shrink_tokens(item, special_tokens) for item in value)
    if isinstance(value, int) and value >= FIRST_SPECIAL_TOKEN:
        return next(special_tokens)
    return value


def shrink_sections(sections: Sequence[int], total: int) -> list[int]:
    """Rotary sections of a multimodal model: their sum is half the head's width."""
    small = [max(1, section * total // sum(sections)) for section in sections]
    small[-1] += total - sum(small)
    return small


def tiny_image_size(default: Any, patch_size: Any) -> Any:
    """Four patches a side, or 64 pixels; a pair stays a pair."""
    if isinstance(default, list | tuple):
        return type(default)(tiny_image_size(size, patch_size) for size in default)
    if isinstance(patch_size, list | tuple):
        patch_size = patch_size[0]
    if not isinstance(default, int) or default <= 64:
        return default
    return 4 * patch_size if isinstance(patch_size, int) and patch_size >= 8 else 64


def layer_kinds(default: PreTrainedConfig, arguments: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keep every kind of layer of a hybrid model: as many layers as it takes, and their kinds listed."""
    listed = {name: list(getattr(default, name, None) or ()) for name in LAYER_KIND_FIELDS if name not in overrides}
    listed = {name: kinds for name, kinds in listed.items() if kinds}
    depth_field = next((name for name in ("num_hidden_layers", "n_layer", "num_layers") if name in arguments), None)
    if not listed or depth_field is None or depth_field in overrides:
        return {}
    length = min(len(kinds) for kinds in listed.values())
    combinations = [tuple(kinds[index] for kinds in listed.values()) for index in range(length)]
    firsts = [index for index, combination in enumerate(combinations) if combination not in combinations[:index]]
    if firsts[-1] < MAX_LAYERS_FOR_KINDS:
        chosen = list(range(min(length, max(firsts[-1] + 1, 2))))
    else:
        chosen = firsts
    changed: dict[str, Any] = {depth_field: len(chosen)}
    declared = {field.name for field in dataclasses.fields(default)}
    for name, kinds in listed.items():
        if name in declared:
            changed[name] = type(getattr(default, name))(kinds[index] for index in chosen)
    return changed
