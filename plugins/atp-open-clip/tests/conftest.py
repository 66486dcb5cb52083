"""Models and data for the tests: tiny random ones made here, real ones from ``ATP_SHARED``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image

import atp_open_clip
from atp_core.records import LoadedModel, LoadRequest, Source

COLOURS = {"red": (210, 40, 30), "green": (40, 190, 60), "deep_blue": (20, 40, 200)}
WORDS = ["a", "an", "of", "the", "photo", "picture", "image", "red", "green", "deep", "blue", "."]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _config(**changes: Any) -> dict[str, Any]:
    """A config of open_clip: 3 + 2 blocks of width 32."""
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16, "patch_size": 8, "layers": 3, "width": 32, "head_width": 8,
        },
        "text_cfg": {
            "context_length": 10, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2,
        },
    }  # fmt: skip
    return {**config, **changes}


def _write(
    directory: Path, config: dict[str, Any], dtype: torch.dtype = torch.float32, **more: Any
) -> Path:
    """A model with random weights in open_clip's hub layout."""
    directory.mkdir(parents=True, exist_ok=True)
    told = {
        "model_cfg": config,
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"},
        **more,
    }
    (directory / "open_clip_config.json").write_text(json.dumps(told))
    torch.manual_seed(0)
    model = open_clip.create_model(
        f"local-dir:{directory}", load_weights=False, pretrained_text=False
    )
    with torch.no_grad():
        model.logit_scale.fill_(2.0)  # far from one-hot, so that losses say something
    tensors = {name: value.to(dtype) for name, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, directory / "open_clip_model.safetensors")
    return directory


def _word_tokenizer(**special: Any) -> Any:
    """A tokenizer with a token a word; the end of a text has the highest number."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["<pad>", "<unk>", *WORDS, "<s>", "</s>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", len(known) - 2), ("</s>", len(known) - 1)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", model_max_length=10, **special,
    )  # fmt: skip


def _picture(colour: Sequence[int], generator: np.random.Generator) -> Image.Image:
    pixels = np.clip(np.array(colour) + generator.normal(0, 25, (16, 16, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _class_folder(root: Path, images: int = 12, seed: int = 0) -> Path:
    """An ImageFolder of coloured noise, `images` for each of three classes."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(images):
            _picture(colour, generator).save(root / name / f"{i:02}.png")
    return root


def _pairs(root: Path, images: int = 20, seed: int = 0, captions: int = 2) -> Path:
    """A JSONL file of images with captions that all differ."""
    generator = np.random.default_rng(seed)
    (root / "img").mkdir(parents=True)
    lines = []
    for i in range(images):
        name, colour = list(COLOURS.items())[i % 3]
        _picture(colour, generator).save(root / "img" / f"{i}.png")
        texts = [f"{name} number {i}", f"the {i} th {name}"][:captions]
        field = "text" if i % 2 else "caption"
        lines.append(json.dumps({"image": f"img/{i}.png", field: texts if i % 3 else texts[0]}))
    (root / "pairs.jsonl").write_text("\n".join(lines))
    return root / "pairs.jsonl"


def _tiny_transformers(kind: str) -> Any:
    """A random CLIP or SigLIP of transformers, 2 blocks a tower."""
    text = {
        "vocab_size": len(WORDS) + 4, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 10,
        "bos_token_id": len(WORDS) + 2, "eos_token_id": len(WORDS) + 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "clip":
        settings = {"projection_dim": 16, "logit_scale_init_value": 2.0}
        config: Any = transformers.CLIPConfig(text_config=text, vision_config=vision, **settings)
        return transformers.CLIPModel(config).eval()
    if kind == "siglip":
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        return transformers.SiglipModel(config).eval()
    config = transformers.Siglip2Config(
        text_config=text, vision_config={**vision, "num_patches": 4}
    )
    return transformers.Siglip2Model(config).eval()


def _processor(kind: str) -> Any:
    tokenizer = _word_tokenizer()
    size = {"height": 16, "width": 16}
    if kind == "clip":
        images: Any = transformers.CLIPImageProcessor(size=size, crop_size=size)
        return transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer)
    if kind == "siglip":
        images = transformers.SiglipImageProcessor(size=size)
        return transformers.SiglipProcessor(image_processor=images, tokenizer=tokenizer)
    images = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    return transformers.Siglip2Processor(image_processor=images, tokenizer=tokenizer)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny random CLIP in open_clip's hub layout."""
    return _write(tmp_path / "clip", _config())


@pytest.fixture
def loaded(directory: Path) -> LoadedModel:
    """It, loaded."""
    return atp_open_clip.atp_load(Source(str(directory)), LoadRequest())


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An ImageFolder of three classes with 12 images each."""
    return _class_folder(tmp_path / "colours")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """20 images, most with two captions."""
    return _pairs(tmp_path / "pairs")


@pytest.fixture(scope="session")
def make_config() -> Callable[..., dict[str, Any]]:
    """Makes a tiny config of open_clip."""
    return _config


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Writes a random model of a config in open_clip's hub layout."""
    return _write


@pytest.fixture(scope="session")
def write_colours() -> Callable[..., Path]:
    """Writes an ImageFolder."""
    return _class_folder


@pytest.fixture(scope="session")
def write_pairs() -> Callable[..., Path]:
    """Writes images with captions."""
    return _pairs


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[..., Any]:
    """Makes a tokenizer with a token a word."""
    return _word_tokenizer


@pytest.fixture(scope="session")
def tiny_transformers() -> Callable[[str], Any]:
    """Makes a random "clip", "siglip" or "siglip2" of transformers."""
    return _tiny_transformers


@pytest.fixture(scope="session")
def tiny_processor() -> Callable[[str], Any]:
    """Makes its processor."""
    return _processor
