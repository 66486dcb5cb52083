"""What is located: true sizes on the meta device, and small models that run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import atp_open_clip
from atp_core.errors import ModelError
from atp_core.records import Block, Chain, LoadedModel, LoadRequest, Source


def located(source: object, **request: Any) -> dict[str, Chain]:
    loaded = atp_open_clip.atp_load(Source(str(source)), LoadRequest(**request))
    return {chain.name: chain for chain in atp_open_clip.atp_locate(loaded)}


def blocks_of(chains: dict[str, Chain]) -> Iterator[Block]:
    for chain in chains.values():
        yield from chain.blocks


def order_of_execution(model: Any, chains: dict[str, Chain], *inputs: torch.Tensor) -> list[str]:
    order: list[str] = []
    for block in blocks_of(chains):
        block.module.register_forward_pre_hook(
            lambda module, args, name=block.name: order.append(name)
        )
    with torch.inference_mode():
        model(*inputs)
    return order


def test_vit_b_32_at_its_true_size() -> None:
    chains = located("open_clip:ViT-B-32", meta=True)
    assert list(chains) == ["vision", "text"]
    vision, text = chains["vision"], chains["text"]
    assert [block.name for block in vision.blocks] == [
        f"visual.transformer.resblocks.{i}" for i in range(12)
    ]
    assert [len(text.blocks), text.blocks[0].name] == [12, "transformer.resblocks.0"]
    shapes = {weight.name: weight.shape for weight in vision.blocks[3].weights}
    prefix = "visual.transformer.resblocks.3"
    assert shapes == {
        f"{prefix}.attn.in_proj_weight[q]": (768, 768),
        f"{prefix}.attn.in_proj_weight[k]": (768, 768),
        f"{prefix}.attn.in_proj_weight[v]": (768, 768),
        f"{prefix}.attn.out_proj.weight": (768, 768),
        f"{prefix}.mlp.c_fc.weight": (3072, 768),
        f"{prefix}.mlp.c_proj.weight": (768, 3072),
    }
    assert vision.parameters == 12 * 12 * 768**2
    assert text.parameters == 12 * 12 * 512**2
    assert vision.dense["visual.conv1"] == "patch embedding or stem"
    assert text.dense["text_projection"] == "projection into the space of both towers"
    assert text.dense["token_embedding"] == "embedding"
    assert vision.default and text.default


@pytest.mark.parametrize(
    ("name", "vision", "text"),
    [
        ("RN50", 3 + 4 + 6 + 3, 12),
        ("convnext_base", 3 + 3 + 27 + 3, 12),
        ("swin_base_patch4_window7_224", 24, 12),
        ("EVA02-B-16", 12, 12),
        ("ViT-B-16-SigLIP", 12, 12),
        ("MobileCLIP-S1", 40, 12),
        ("MobileCLIP-B", 12, 12),
        ("ViTamin-S", 20, 12),
        ("ViT-bigG-14", 48, 32),
    ],
)
def test_other_towers_on_the_meta_device(name: str, vision: int, text: int) -> None:
    chains = located(f"open_clip:{name}", meta=True)
    assert {key: len(chain.blocks) for key, chain in chains.items()} == {
        "vision": vision,
        "text": text,
    }
    names = [weight.name for block in blocks_of(chains) for weight in block.weights]
    assert len(names) == len(set(names))


def test_the_pool_and_stem_of_a_resnet_stay_dense() -> None:
    vision = located("open_clip:RN50", meta=True)["vision"]
    assert vision.dense["visual.attnpool"] == "pooling"
    assert vision.dense["visual.conv2"] == "patch embedding or stem"
    first = {weight.name: weight.shape for weight in vision.blocks[0].weights}
    assert first["visual.layer1.0.conv2.weight"] == (64, 64 * 9)
    assert "visual.layer1.0.downsample.0.weight" in first


def test_depthwise_convolutions_stay_dense() -> None:
    vision = located("open_clip:convnext_base", meta=True)["vision"]
    found = {reason for name, reason in vision.dense.items() if name.endswith("conv_dw.weight")}
    assert found == {"depthwise convolution"}
    assert not any("conv_dw" in w.name for block in vision.blocks for w in block.weights)


def test_the_decoder_of_coca_is_pruned_only_where_asked_for() -> None:
    chains = located("open_clip:coca_ViT-B-32", meta=True)
    assert [chain.default for chain in chains.values()] == [True, True, False]
    names = [block.name for block in chains["multimodal"].blocks]
    assert names[:3] == [
        "text_decoder.resblocks.0", "text_decoder.cross_attn.0", "text_decoder.resblocks.1",
    ]  # fmt: skip
    assert len(names) == 24


@pytest.mark.parametrize(
    ("tower", "changes"),
    [
        ("vit", {}),
        ("custom attention", {"vision": {"qk_norm": True}, "text": {"scale_attn": True}}),
        ("resnet", {"vision": {"layers": [1, 2, 1, 2], "width": 8, "head_width": 16,
                               "image_size": 64, "patch_size": None}}),
        ("one block", {"vision": {"layers": 1}, "text": {"layers": 1}}),
        ("timm", {"vision": {"timm_model_name": "convnext_atto", "timm_pool": "avg",
                             "timm_proj": "linear", "image_size": 64}}),
        ("coca", {"vision": {"attentional_pool": True, "attn_pooler_heads": 4,
                             "attn_pooler_queries": 5, "output_tokens": True},
                  "text": {"embed_cls": True, "output_tokens": True},
                  "custom_text": True,
                  "multimodal_cfg": {"context_length": 10, "vocab_size": 49408, "width": 16,
                                     "heads": 4, "layers": 2, "attn_pooler_heads": 4}}),
    ],
)  # fmt: skip
def test_blocks_run_once_and_in_the_located_order(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    make_config: Callable[..., dict[str, Any]],
    tower: str,
    changes: dict[str, Any],
) -> None:
    config = make_config()
    changes = dict(changes)
    config["vision_cfg"] |= changes.pop("vision", {})
    config["text_cfg"] |= changes.pop("text", {})
    if tower == "coca":
        config["embed_dim"] = config["text_cfg"]["width"] = 16
    config["vision_cfg"] = {k: v for k, v in config["vision_cfg"].items() if v is not None}
    directory = write_clip(tmp_path / "clip", {**config, **changes})
    loaded = atp_open_clip.atp_load(Source(str(directory)), LoadRequest())
    chains = {chain.name: chain for chain in atp_open_clip.atp_locate(loaded)}
    size = config["vision_cfg"]["image_size"]
    images, texts = torch.randn(2, 3, size, size), torch.randint(1, 400, (2, 10))
    order = order_of_execution(loaded.model, chains, images, texts)
    assert order == [block.name for block in blocks_of(chains)]
    assert set(chains) == {"vision", "text"} | ({"multimodal"} if tower == "coca" else set())


def test_a_text_tower_of_transformers(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    make_config: Callable[..., dict[str, Any]],
    word_tokenizer: Callable[..., Any],
) -> None:
    transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, pad_token_id=0,
    ).save_pretrained(tmp_path / "tower")  # fmt: skip
    config = make_config(
        text_cfg={
            "hf_model_name": str(tmp_path / "tower"), "hf_tokenizer_name": "of-its-own",
            "context_length": 10, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler",
        }
    )  # fmt: skip
    directory = tmp_path / "clip"
    word_tokenizer().save_pretrained(directory)
    write_clip(directory, config)
    loaded = atp_open_clip.atp_load(Source(str(directory)), LoadRequest())
    chains = {chain.name: chain for chain in atp_open_clip.atp_locate(loaded)}
    text = chains["text"]
    assert [block.name for block in text.blocks] == [
        f"text.transformer.encoder.layer.{i}" for i in range(2)
    ]
    assert len(text.blocks[0].weights) == 6
    assert text.dense["text.proj"] == "projection into the space of both towers"
    tokens = loaded.processor.tokenizer(["a red photo", "the image of a green picture"])
    order = order_of_execution(loaded.model, chains, torch.randn(2, 3, 16, 16), tokens)
    assert order == [block.name for block in blocks_of(chains)]


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_models_of_transformers(tiny_transformers: Callable[[str], Any], kind: str) -> None:
    model = tiny_transformers(kind)
    loaded = LoadedModel(model, Source("tiny", model=model))
    chains = atp_open_clip.atp_locate(loaded)
    assert [chain.name for chain in chains] == ["vision", "text"]
    for chain, tower in zip(chains, ("vision_model", "text_model"), strict=True):
        assert [block.name for block in chain.blocks] == [
            f"{tower}.encoder.layers.{i}" for i in range(2)
        ]
        assert {w.name.rsplit(".", 2)[1] for w in chain.blocks[0].weights} == {
            "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2",
        }  # fmt: skip
    assert any(name.startswith("vision_model") for name in chains[0].dense)
    assert "logit_scale" in chains[1].dense


def test_every_parameter_is_located_or_named(loaded: LoadedModel) -> None:
    chains = atp_open_clip.atp_locate(loaded)
    inside = {id(p) for c in chains for b in c.blocks for p in b.module.parameters()}
    dense = [name for chain in chains for name in chain.dense]
    for name, parameter in loaded.model.named_parameters():
        told = any(name == part or name.startswith(f"{part}.") for part in dense)
        assert told != (id(parameter) in inside), name


def test_a_model_without_a_tower_is_refused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = nn.Sequential(nn.Linear(2, 2))

    model = Half()
    with pytest.raises(ModelError, match=r"no blocks with prunable weights.* vision tower of Half"):
        atp_open_clip.atp_locate(LoadedModel(model, Source("half", model=model)))
    model.visual = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    with pytest.raises(ModelError, match=r"Half has no text tower"):
        atp_open_clip.atp_locate(LoadedModel(model, Source("half", model=model)))
