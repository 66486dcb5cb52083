"""Tiny random models of every family, what runs them, and what is expected of their blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atp_core.records import Calibration, Chain, LoadRequest, Source

__all__ = ["FAMILIES", "Family", "calibration_of", "chains_of"]


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        make: a random model in eval mode; always the same.
        run: what it gives for an input of some width.
        heads: units of heads in its first block; 0 where they stay.
        channels: channels of the groups in its first block.
    """

    make: Callable[[], Any]
    run: Callable[[Any], torch.Tensor]
    heads: int
    channels: Sequence[int]


def chains_of(model: nn.Module) -> Sequence[Chain]:
    """The chains of a model in memory, as its own plugin locates them."""
    from atp_core._plugins import build_manager

    plugins = build_manager()
    source = Source(type(model).__name__, model)
    plugin = plugins.recognize(source).plugin
    loaded = plugins.caller("atp_load", plugin)(source=source, request=LoadRequest())
    found: Sequence[Chain] = plugins.caller("atp_locate", plugin)(loaded=loaded)
    return found


def calibration_of(family: Family, model: nn.Module) -> Calibration:
    """One batch of the family's input."""
    return Calibration([None], lambda _: family.run(model), 2, "", "", "", frozenset(), [2])


def _tokens(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.arange(20).view(2, 10), use_cache=False).logits
    return found


def _images(side: int) -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * 3 * side * side).view(2, 3, side, side)


def _seeded(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make().eval()
            with torch.no_grad():  # biases and norms that do something
                for value in [*model.parameters(), *model.buffers()]:
                    if value.dim() == 1 and value.is_floating_point():
                        value += 0.1 * torch.rand_like(value)
        return model

    return made


def _causal(kind: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        hf: Any = transformers
        config = getattr(hf, f"{kind}Config")(vocab_size=64, **settings)
        return hf.AutoModelForCausalLM.from_config(config)

    return _seeded(make)


_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}


def _timm(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        import timm

        return timm.create_model(name, num_classes=5, **settings)

    return _seeded(make)


def _clip() -> Any:
    import transformers

    hf: Any = transformers
    shared = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"vocab_size": 64, "eos_token_id": 63, "bos_token_id": 62}
    config = hf.CLIPConfig(
        text_config={**shared, **ids, "max_position_embeddings": 16},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    return hf.CLIPModel(config)


def _run_clip(model: Any) -> torch.Tensor:
    ids = torch.tensor([[62, 1, 2, 63], [62, 5, 2, 63]])
    found = model(input_ids=ids, pixel_values=_images(32))
    return torch.cat([found.image_embeds, found.text_embeds])


def _open_clip() -> Any:
    import open_clip

    return open_clip.model.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8},
        text_cfg={"context_length": 8, "vocab_size": 64, "width": 32, "heads": 4, "layers": 2},
    )


def _run_open_clip(model: Any) -> torch.Tensor:
    text = torch.tensor([[1, 2, 3, 63, 0, 0, 0, 0], [4, 5, 63, 0, 0, 0, 0, 0]])
    images, texts, *_ = model(_images(32), text)
    return torch.cat([images, texts])


FAMILIES = {
    "llama": Family(_causal("Llama", **_LLAMA), _tokens, 4, [48]),
    "qwen2": Family(_causal("Qwen2", **_LLAMA), _tokens, 4, [48]),
    "qwen3": Family(_causal("Qwen3", head_dim=4, **_LLAMA), _tokens, 4, [48]),
    "mistral": Family(_causal("Mistral", **_LLAMA), _tokens, 4, [48]),
    "gpt2": Family(
        _causal("GPT2", n_embd=32, n_layer=3, n_head=4, n_positions=64), _tokens, 4, [128]
    ),
    "vit": Family(
        _timm("vit_tiny_patch16_224", depth=3, img_size=32, embed_dim=32, num_heads=4),
        lambda model: model(_images(32)),
        4,
        [128],
    ),
    "convnext": Family(
        _timm("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        lambda model: model(_images(64)),
        0,
        [32],
    ),
    # The first block of both has squeeze-and-excitation and no expansion.
    "efficientnet": Family(_timm("efficientnet_b0"), lambda model: model(_images(32)), 0, [8]),
    "mobilenet": Family(_timm("mobilenetv3_small_050"), lambda model: model(_images(64)), 0, [8]),
    "efficientnet-lite": Family(
        _timm("efficientnet_lite0"), lambda model: model(_images(64)), 0, []
    ),
    "clip": Family(_seeded(_clip), _run_clip, 4, [48]),
    "open-clip": Family(_seeded(_open_clip), _run_open_clip, 0, [128]),
}
