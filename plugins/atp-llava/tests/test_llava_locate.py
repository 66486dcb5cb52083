"""Where the blocks of vision tower and language model are, and what stays dense and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from atp_core.errors import ModelError
from atp_core.records import Block, Chain, PrunableWeight
from atp_llava._locate import locate

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_configs import build
from _llava_tiny import KINDS, tiny


def _chains(model: nn.Module) -> dict[str, Chain]:
    return {chain.name: chain for chain in locate(model)}


def _weights(blocks: list[Block]) -> dict[str, PrunableWeight]:
    return {weight.name: weight for block in blocks for weight in block.weights}


@pytest.mark.parametrize(
    ("kind", "seen"), [("llava", 2), ("llava_next", 2), ("llava_onevision", 3)]
)
def test_two_chains_in_order_of_execution(kind: str, seen: int) -> None:
    model, _ = tiny(kind)
    vision, language = locate(model)
    assert (vision.name, vision.default) == ("vision", False)
    assert (language.name, language.default) == ("language", True)
    tower = "model.vision_tower.encoder.layers"
    assert [block.name for block in vision.blocks] == [f"{tower}.{i}" for i in range(seen)]
    layers = [f"model.language_model.layers.{i}" for i in range(4)]
    assert [block.name for block in language.blocks] == layers
    assert {w.name.removeprefix(f"{tower}.1."): w.shape for w in vision.blocks[1].weights} == {
        **{f"self_attn.{part}_proj.weight": (16, 16) for part in ("q", "k", "v", "out")},
        "mlp.fc1.weight": (24, 16),
        "mlp.fc2.weight": (16, 24),
    }
    assert len(language.blocks[3].weights) == 7
    assert language.dense["lm_head"] == "output layer"
    assert language.dense["model.vision_tower.embeddings"] == "patch embedding"
    assert language.dense["model.language_model.embed_tokens"] == "embedding"
    assert language.dense["model.multi_modal_projector"].startswith("projector")


@pytest.mark.parametrize(
    ("layers", "used"),
    [(-2, 2), (-1, 3), (1, 1), ([-3, -2], 2), ([1, -1], 3), ([0, 2], 2)],
)
def test_layers_of_the_tower_that_nobody_reads_stay_dense(layers: Any, used: int) -> None:
    model, _ = tiny(vision_feature_layer=layers)
    chains = _chains(model)
    tower = [f"model.vision_tower.encoder.layers.{i}" for i in range(3)]
    assert [block.name for block in chains["vision"].blocks] == tower[:used]
    unread = [name for name, why in chains["vision"].dense.items() if "not read" in why]
    assert unread == tower[used:]
    # And so it is: the image features depend on the blocks located, and on no other layer.
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))

    def features() -> torch.Tensor:
        with torch.no_grad():
            return model.model.get_image_features(pixels).pooler_output[0]

    before = features()
    for i in reversed(range(3)):
        layer = model.model.vision_tower.encoder.layers[i]
        kept = layer.mlp.fc2.weight.detach().clone()
        with torch.no_grad():
            layer.mlp.fc2.weight.mul_(0.5)
        assert torch.equal(features(), before) is (i >= used)
        with torch.no_grad():
            layer.mlp.fc2.weight.copy_(kept)


def test_llava_15_7b_at_its_true_size() -> None:
    """32 blocks of Llama-2 and the 23 blocks of CLIP ViT-L/14-336 whose output is read."""
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(_llava_15(1))
    chains = _chains(model)
    assert len(chains["vision"].blocks) == 23
    assert len(chains["language"].blocks) == 32
    # Llama-2-7B: 32 · (4 · 4096² + 3 · 4096 · 11008); ViT-L: 23 · (4 · 1024² + 2 · 1024 · 4096).
    assert chains["language"].parameters == 32 * (4 * 4096**2 + 3 * 4096 * 11008) == 6476005376
    assert chains["vision"].parameters == 23 * (4 * 1024**2 + 2 * 1024 * 4096) == 289406976
    assert all(parameter.is_meta for parameter in model.parameters())


def test_llava_15_scaled_down_runs_as_located() -> None:
    model = transformers.LlavaForConditionalGeneration(_llava_15(64)).eval()
    chains = _chains(model)
    order: list[str] = []
    for chain in chains.values():
        for block in chain.blocks:
            block.module.register_forward_pre_hook(
                lambda module, args, name=block.name: order.append(name)
            )
    ids = torch.tensor([[1, *[32] * 576, 5, 6]])
    with torch.inference_mode():
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 336, 336))
    assert order == [block.name for chain in chains.values() for block in chain.blocks]


def _llava_15(scale: int) -> Any:
    """The config of LLaVA-1.5-7B, its widths divided by `scale`."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024 // scale, intermediate_size=4096 // scale, num_hidden_layers=24,
        num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768 // scale,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        hidden_size=4096 // scale, intermediate_size=11008 // scale, num_hidden_layers=32,
        num_attention_heads=32, vocab_size=32064 if scale == 1 else 64,
        max_position_embeddings=4096,
    )  # fmt: skip
    return transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=32, vision_feature_layer=-2
    )


@pytest.mark.parametrize(
    ("model_type", "vision", "language"),
    [
        ("paligemma", "model.vision_tower.encoder.layers", "model.language_model.layers"),
        ("smolvlm", "model.vision_model.encoder.layers", "model.text_model.layers"),
        ("qwen2_vl", "model.visual.blocks", "model.language_model.layers"),
        ("qwen3_vl_moe", "model.visual.blocks", "model.language_model.layers"),
        ("gemma3", "model.vision_tower.encoder.layers", "model.language_model.layers"),
        ("mistral3", "model.vision_tower.transformer.layers", "model.language_model.layers"),
        ("aria", "model.vision_tower.encoder.layers", "model.language_model.layers"),
        ("blip-2", "vision_model.encoder.layers", "language_model.model.decoder.layers"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of transformers, about configs this small
def test_other_families(model_type: str, vision: str, language: str) -> None:
    chains = _chains(build(model_type, "meta"))
    for name, parent in (("vision", vision), ("language", language)):
        blocks = chains[name].blocks
        assert [block.name for block in blocks] == [f"{parent}.{i}" for i in range(2)]
        assert all(block.weights for block in blocks)


@pytest.mark.filterwarnings("ignore")
def test_fused_projections_and_experts() -> None:
    chains = _chains(build("qwen3_vl_moe", "meta"))
    vision, language = (_weights(list(chains[name].blocks)) for name in ("vision", "language"))
    assert vision["model.visual.blocks.0.attn.qkv.weight"].shape == (96, 32)
    experts = [w for name, w in language.items() if "experts.gate_up_proj[" in name]
    assert experts and all(w.conditional and w.shape == (48, 32) for w in experts)
    down = [w for name, w in language.items() if "experts.down_proj[" in name]
    assert down and all(w.shape == (32, 24) for w in down)
    routers = [why for why in chains["language"].dense.values() if "router" in why]
    assert routers

    stacked = _weights(list(_chains(build("aria", "meta"))["language"].blocks))
    down = [w for name, w in stacked.items() if name.endswith("mlp.experts.down_proj[0]")]
    assert down and all(w.transposed and w.conditional and w.shape[0] == 32 for w in down)


def test_views_write_to_the_model() -> None:
    model, _ = tiny()
    weight = _chains(model)["language"].blocks[2].weights[0]
    weight.matrix().zero_()
    assert not model.model.language_model.layers[2].self_attn.q_proj.weight.any()


def test_a_model_without_layers_is_an_error() -> None:
    with pytest.raises(ModelError, match="Linear"):
        locate(nn.Linear(4, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_locating_changes_nothing(kind: str) -> None:
    model, _ = tiny(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    locate(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
