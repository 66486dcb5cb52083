"""A small configuration of every language-model architecture that transformers knows.

Well-known sizes are shrunk by name, per-layer lists are cut to one layer of each kind, and what
does not follow from names is overridden below.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

__all__ = ["UNCOVERED", "UNPRUNABLE", "Entry", "build", "entries", "run", "tiny_config"]

VOCABULARY = 128
LAYERS = 2

# Sizes differ wherever they may, so that a mix-up of two dimensions is seen.
SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "hidden_size_global"),
        32,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "d_ff",
            "ffn_dim",
            "dff",
            "dim_ff",
            "ffn_hidden_size",
            "d_inner",
            "intermediate_size_mlp",
            "feed_forward_size",
            "dense_intermediate_size",
            "mlp_dim",
        ),
        48,
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "expert_ffn_hidden_size",
            "shared_experts_intermediate_size",
            "shared_intermediate_size",
            "moe_shared_expert_intermediate_size",
        ),
        24,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "n_head",
            "num_heads",
            "n_heads",
            "num_encoder_attention_heads",
            "num_decoder_attention_heads",
            "attention_heads",
            "conf_num_attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "dim_head", "attention_head_size"), 8),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "encoder_layers",
            "decoder_layers",
            "num_layers",
            "n_layer",
            "n_layers",
            "num_decoder_layers",
            "num_encoder_layers",
            "depth",
            "num_blocks",
            "conf_num_hidden_layers",
        ),
        LAYERS,
    ),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        (
            "num_experts_per_tok",
            "num_experts_per_token",
            "moe_topk",
            "moe_top_k",
            "moe_k",
            "topk_group",
            "n_group",
            "num_expert_group",
        ),
        2,
    ),
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 64
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 12),
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("index_head_dim",), 16),
    "index_n_heads": 2,
    "index_topk": 4,
    "num_nextn_predict_layers": 0,
    "first_k_dense_replace": 1,
}


# What does not follow from names: by model type of the mapping, dots lead into sub-configs.
class SubConfig(NamedTuple):
    """A sub-config to be made by model type, where the default one is not valid."""

    type: str
    overrides: dict[str, Any]


_QWEN4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 12,
    "output_gate_type": "sigmoid",
}
_GEMMA3N = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "intermediate_size": 48,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.95, 0.0, 0.95, 0.0],
    "laurel_rank": 6,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
_DOTS3 = {"num_key_value_heads": 4}
_LLAMA4_TEXT = {
    "num_hidden_layers": 2,
    "moe_layers": [1],
    "no_rope_layers": [1, 0],
    "layer_types": ["chunked_attention", "full_attention"],
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA,
    "granitemoehybrid": {**_MAMBA, "layer_types": ["linear_attention", "full_attention"]},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "longcat_flash": {"zero_expert_num": 2},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "xmod": {"languages": ("en_XX",), "default_language": "en_XX"},
    "dots3_note": {
        **{f"text_config.{key}": value for key, value in _DOTS3.items()},
        "vision_config.adapter_in_dim": 32,
        "vision_config.adapter_out_dim": 32,
        "audio_config.adapter_input_size": 32,
        "audio_config.adapter_out_dim": 32,
    },
    "dots3_note_text": _DOTS3,
    "gemma3n": {f"text_config.{key}": value for key, value in _GEMMA3N.items()},
    "gemma3n_text": _GEMMA3N,
    "gemma4": {
        "text_config.vocab_size_per_layer_input": VOCABULARY,
        "text_config.hidden_size_per_layer_input": 8,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
    },
    "gemma4_assistant": {
        "text_config": SubConfig(
            "gemma4_text",
            {
                "hidden_size_per_layer_input": 0,
                "vocab_size_per_layer_input": 0,
                "num_kv_shared_layers": 2,
            },
        ),
        "num_centroids": 8,
        "centroid_intermediate_top_k": 2,
        "backbone_hidden_size": 32,
    },
    "gemma4_unified_assistant": {"num_centroids": 8, "backbone_hidden_size": 32},
    "nemo_speechlm": {"audio_config.diarization_config.head_config.audio_hidden_size": 32},
    "vibevoice_asr": {
        "acoustic_tokenizer_encoder_config.num_filters": 2,
        "semantic_tokenizer_encoder_config.num_filters": 2,
    },
    "llama4": {f"text_config.{key}": value for key, value in _LLAMA4_TEXT.items()},
    "llama4_text": _LLAMA4_TEXT,
    "mllama": {"text_config.cross_attention_layers": [1], "text_config.num_hidden_layers": 3},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
        "num_dense_layers": 1,
    },
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {f"text_config.{key}": value for key, value in _QWEN4.items()},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": (8, 24),
        "axial_pos_shape": (8, 8),
        "attn_layers": ("local", "lsh"),
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 128,
        "shape_vocab_size": 128,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dbrx": {
        "attn_config.clip_qkv": 8,
        "attn_config.rope_theta": 1e4,
        "ffn_config.hidden_size": 32,
    },
    "inkling2_text": {"unpadded_vocab_size": 128},
    "inkling2_loop_text": {"unpadded_vocab_size": 128},
    "granite_speech": {"encoder_config.hidden_dim": 32},
    "granite_speech_plus": {"encoder_config.hidden_dim": 32},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": [
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "linear_attention",
        ],
    },
    "zaya": {"num_experts_per_tok": 1},
}


# Why a forward pass over text alone fails, by model type.
_DRAFTER = "its forward needs hidden states and key-values of the model that it drafts for"
UNCOVERED: dict[str, str] = {
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
    "voxtral_realtime": "its forward needs audio for every token",
}
if importlib.util.find_spec("timm") is None:
    UNCOVERED["gemma3n"] = "its vision tower needs timm, which is not installed"

# Located, and a forward pass consumes all weights as located, but the engine cannot prune these.
UNPRUNABLE: dict[str, str] = {
    "xlm": "it fills a key-value cache even when told not to, so a block cannot be run again",
}


class Entry(NamedTuple):
    """One line of transformers' mapping: the kind of model, its type and class."""

    kind: Literal["causal", "seq2seq"]
    type: str
    architecture: str


def entries() -> Iterator[Entry]:
    """Every architecture of the two mappings."""
    for model_type, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        yield Entry("causal", model_type, architecture)
    for model_type, architecture in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items():
        yield Entry("seq2seq", model_type, architecture)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """A small configuration for a model type."""
    overrides = OVERRIDES.get(model_type, {})
    return _shrink(transformers.CONFIG_MAPPING[model_type], overrides)


def build(entry: Entry, device: str = "cpu") -> nn.Module:
    """A small model with random weights in eval mode, its experts run one by one."""
    config = copy.deepcopy(tiny_config(entry.type))
    auto = (
        transformers.AutoModelForCausalLM
        if entry.kind == "causal"
        else transformers.AutoModelForSeq2SeqLM
    )
    with torch.device(device):
        if entry.type in ("musicgen", "musicgen_melody"):  # the decoder of the whole model
            model = getattr(transformers, entry.architecture)._from_config(config.decoder)
        else:
            model = auto.from_config(config)
    model.set_experts_implementation("eager")
    return model.eval()


def run(entry: Entry, model: nn.Module, tokens: int = 24) -> None:
    """One forward pass of four random sequences (or four codebooks of one, for musicgen)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (4, tokens), generator=generator)
    inputs = {"input_ids": ids}
    if entry.kind == "seq2seq" and getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids[:, : tokens // 2]
    with torch.inference_mode():
        model(**inputs, use_cache=False)


def _shrink(config_class: type[PreTrainedConfig], overrides: dict[str, Any]) -> PreTrainedConfig:
    own = {
        key: _shrink(transformers.CONFIG_MAPPING[value.type], value.overrides)
        if isinstance(value, SubConfig)
        else value
        for key, value in overrides.items()
        if "." not in key
    }
    try:
        default = config_class()
    except Exception:
        default = config_class(**own)
    fields = vars(default)
    chosen: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            inner = {
                k.removeprefix(f"{key}."): v
                for k, v in overrides.items()
                if k.startswith(f"{key}.")
            }
            chosen[key] = _shrink(type(value), inner)
        elif key in SIZES and isinstance(value, int) and not isinstance(value, bool) and value:
            chosen[key] = SIZES[key]
        elif key.endswith("token_id") and isinstance(value, (int, list)):
            chosen[key] = 1
    if "kv_lora_rank" in fields:  # latent attention has as many key as query heads
        chosen["num_key_value_heads"] = chosen["num_attention_heads"]
    chosen.update(_layer_lists(default))
    chosen.update(own)
    return config_class(**chosen)


def _layer_lists(default: PreTrainedConfig) -> dict[str, Any]:
    """Per-layer lists, cut to one layer of each kind."""
    count = getattr(default, "num_hidden_layers", None)
    lists = {
        key: list(value)
        for key, value in vars(default).items()
        if isinstance(value, (list, tuple))
        and isinstance(count, int)
        and len(value) == count
        and not key.startswith("_")
    }
    if not lists:
        return {}
    kinds = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    while len(kinds) < LAYERS:
        kinds.append(kinds[-1])
    chosen: dict[str, Any] = dict(zip(lists, map(list, zip(*kinds, strict=True)), strict=True))
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if key in vars(default):
            chosen[key] = len(kinds)
    return chosen
