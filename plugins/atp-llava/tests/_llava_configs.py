"""A small configuration of every image-text-to-text architecture that transformers knows.

Sizes are shrunk by name, in a config and its sub-configs; per-layer lists are cut; what does not
follow from names is overridden.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

__all__ = ["IMAGE_TOKEN", "VOCABULARY", "architectures", "build", "image_inputs", "tiny_config"]

VOCABULARY = 128
IMAGE_TOKEN = 5
LAYERS = 2

_SIZES: dict[str, int] = {
    **dict.fromkeys(
        (
            "hidden_size", "d_model", "embed_dim", "n_embd", "projection_dim",
            "out_hidden_size", "hidden_dim", "image_embed_dim",
        ),
        32,
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "ffn_dim", "mlp_dim", "encoder_ffn_dim", "decoder_ffn_dim",
            "dense_intermediate_size", "intermediate_size_mlp", "d_ff",
        ),
        48,
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(
        (
            "num_attention_heads", "num_heads", "n_head", "encoder_attention_heads",
            "decoder_attention_heads", "attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(
        (
            "num_hidden_layers", "num_layers", "depth", "encoder_layers", "decoder_layers",
            "n_layer", "layers",
        ),
        LAYERS,
    ),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "moe_topk", "moe_k", "topk_group", "n_group", "top_k_experts"), 2
    ),
    **dict.fromkeys(("vocab_size",), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 12),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    "image_size": 28,
    "patch_size": 7,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
}  # fmt: skip

_TILES = [[28, 28], [28, 56], [56, 28], [56, 56]]
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_HALF = {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}
# What does not follow from names, by model type; dots lead into sub-configs.
OVERRIDES: dict[str, dict[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "dots3_note": {
        "text_config.num_key_value_heads": 4,
        "vision_config.adapter_in_dim": 32,
        "vision_config.adapter_out_dim": 32,
        "audio_config.adapter_input_size": 32,
        "audio_config.adapter_out_dim": 32,
    },
    "gemma3": {"mm_tokens_per_image": 4},
    **{name: {"text_config.rope_parameters": _ROPE} for name in (
        "glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_vl", "qwen2_vl")},
    "glm4v_moe": {"text_config.rope_parameters": _HALF},
    "inkling2": {"vision_config.text_hidden_size": 32},
    "inkling2_loop": {"vision_config.text_hidden_size": 32},
    "lfm2_vl": {"text_config.num_hidden_layers": 2, "text_config.layer_types": [
        "conv", "full_attention"]},
    "llava_next": {"image_grid_pinpoints": _TILES},
    "llava_next_video": {"image_grid_pinpoints": _TILES},
    "llava_onevision": {"image_grid_pinpoints": _TILES},
    "molmo2": {"adapter_config.vision_feature_layer": [-1, -2]},
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "step3p7": {"text_config.sliding_window": 16},
    "vipllava": {"vision_feature_layers": [-2, 1]},
}  # fmt: skip


def architectures() -> dict[str, str]:
    """Model type → class name, for all of the mapping."""
    return dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """A small configuration for a model type."""
    return _shrink(transformers.CONFIG_MAPPING[model_type], OVERRIDES.get(model_type, {}))


def build(model_type: str, device: str = "cpu") -> nn.Module:
    """A small model with random weights in eval mode, its experts run one by one."""
    config = copy.deepcopy(tiny_config(model_type))
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model.set_experts_implementation("eager")
    return model.eval()


def image_inputs(model: Any) -> dict[str, torch.Tensor]:
    """Arguments of a forward over two random images with a few words each.

    Images are given as pixels, as tiles of pixels, or as flattened patches with their grid,
    whichever the model's `get_image_features` takes; what that returns tells how many image tokens
    the text must have.

    Raises:
        ValueError: it takes none of them.
    """
    problems = []
    for images in _image_forms(model.config):
        try:
            with torch.inference_mode():
                features = model.get_image_features(**images)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
            continue
        count = _rows(features) // 2
        ids = torch.randint(8, VOCABULARY, (2, 1 + count + 6), generator=_generator())
        ids[:, 1 : 1 + count] = _image_token(model.config)
        kinds = (ids == _image_token(model.config)).int()
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}
        known = inspect.signature(model.forward).parameters
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in known:
                found[name] = kinds
        return found
    raise ValueError("; ".join(problems))


def _image_forms(config: Any) -> Iterator[dict[str, torch.Tensor]]:
    vision = getattr(config, "vision_config", config)
    side = _integer(vision, "image_size", 28)
    patch = _integer(vision, "patch_size", 7)
    sizes = torch.tensor([[side, side]] * 2)
    pixels = torch.randn(2, 3, side, side, generator=_generator())
    yield {"pixel_values": pixels}
    yield {"pixel_values": pixels, "image_sizes": sizes}
    tiles = torch.randn(2, 2, 3, side, side, generator=_generator())
    yield {"pixel_values": tiles}
    # One tile of the image beside the whole of it.
    yield {"pixel_values": tiles, "image_sizes": sizes}
    length = 3 * _integer(vision, "temporal_patch_size", 1) * patch * patch
    patches = torch.randn(2 * 16, length, generator=_generator())
    grid = torch.tensor([[1, 4, 4]] * 2)
    yield {"pixel_values": patches, "image_grid_thw": grid}
    yield {"pixel_values": patches.view(32, 3, patch, -1), "image_grid_thw": grid}


def _integer(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, None)
    value = value[0] if isinstance(value, list | tuple) else value
    return value if isinstance(value, int) else default


def _image_token(config: Any) -> int:
    for name in ("image_token_id", "image_token_index"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return IMAGE_TOKEN


def _rows(features: Any) -> int:
    """How many vectors the image features are."""
    found = getattr(features, "pooler_output", features)
    if isinstance(found, torch.Tensor):
        return found.numel() // found.shape[-1]
    return sum(_rows(part) for part in found)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _shrink(config_class: type[PreTrainedConfig], overrides: dict[str, Any]) -> PreTrainedConfig:
    own = {key: value for key, value in overrides.items() if "." not in key}
    try:
        default = config_class()
    except Exception:
        default = config_class(**own)
    chosen: dict[str, Any] = {}
    for key, value in vars(default).items():
        if isinstance(value, PreTrainedConfig):
            inner = {
                name.removeprefix(f"{key}."): found
                for name, found in overrides.items()
                if name.startswith(f"{key}.")
            }
            chosen[key] = _shrink(type(value), inner)
        elif key in _SIZES and isinstance(value, int) and not isinstance(value, bool) and value:
            chosen[key] = _SIZES[key]
        elif key in ("image_token_id", "image_token_index"):
            chosen[key] = IMAGE_TOKEN
        elif key.endswith("token_id") and isinstance(value, int):
            chosen[key] = 1
    if "kv_lora_rank" in chosen:
        chosen["num_key_value_heads"] = chosen["num_attention_heads"]
    chosen.update(_layer_lists(default))
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        chosen["rope_parameters"] = {**rope, "mrope_section": _sections(default, rope)}
    chosen.update(own)
    return config_class(**chosen)


def _sections(default: PreTrainedConfig, rope: dict[str, Any]) -> list[int]:
    """Shares of a head's rotary pairs, as many as a small head has."""
    heads: Any = getattr(default, "num_attention_heads", 1)
    wide = getattr(default, "head_dim", None) or getattr(default, "hidden_size", 0) // heads
    pairs = max(3, sum(rope["mrope_section"]) * 8 // wide)
    return [pairs - 2, 1, 1]


def _layer_lists(default: PreTrainedConfig) -> dict[str, Any]:
    """Per-layer lists, cut to one layer of each kind."""
    count = getattr(default, "num_hidden_layers", None)
    lists = {
        key: list(value)
        for key, value in vars(default).items()
        if isinstance(value, (list, tuple)) and isinstance(count, int) and len(value) == count
    }
    if not lists:
        return {}
    kinds = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    while len(kinds) < LAYERS:
        kinds.append(kinds[-1])
    chosen: dict[str, Any] = dict(zip(lists, map(list, zip(*kinds, strict=True)), strict=True))
    for key in ("num_hidden_layers", "num_layers"):
        if key in vars(default):
            chosen[key] = len(kinds)
    return chosen
