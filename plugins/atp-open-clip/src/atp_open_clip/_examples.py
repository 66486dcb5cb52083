"""Tiny random CLIP models that show the plugin at work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
import transformers

from atp_core.records import DataRequest, Source
from atp_core.testing import Example, image_folder

from ._quiet import quiet

__all__ = ["WORDS", "clip", "siglip", "tiny_config", "tiny_transformers", "word_tokenizer", "write"]

WORDS = ["a", "an", "of", "the", "photo", "picture", "image", "red", "green", "deep", "blue", "."]

# Its constructors are typed for arguments that are written out, and here they come in tables.
hf: Any = transformers


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A config of open_clip: 3 + 2 blocks of width 32."""
    vision = {"image_size": 16, "patch_size": 8, "layers": 3, "width": 32, "head_width": 8}
    text = {"context_length": 10, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, **changes}


def write(
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
    with quiet():
        model = open_clip.create_model(
            f"local-dir:{directory}", load_weights=False, pretrained_text=False
        )
    with torch.no_grad():
        model.logit_scale.fill_(2.0)  # far from one-hot, so that losses say something
    tensors = {name: value.to(dtype) for name, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, directory / "open_clip_model.safetensors")
    return directory


def word_tokenizer(**special: Any) -> Any:
    """A tokenizer with a token a word; the end of a text has the highest number."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["<pad>", "<unk>", *WORDS, "<s>", "</s>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", len(known) - 2), ("</s>", len(known) - 1)],
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=10,
        **special,
    )


def tiny_transformers(kind: str) -> tuple[Any, Any]:
    """A random "clip", "siglip" or "siglip2" of transformers, 2 blocks a tower; its processor."""
    text = {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 10,
        "bos_token_id": len(WORDS) + 2,
        "eos_token_id": len(WORDS) + 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    tokenizer, size = word_tokenizer(), {"height": 16, "width": 16}
    torch.manual_seed(0)
    if kind == "clip":
        settings = {"projection_dim": 16, "logit_scale_init_value": 2.0}
        config: Any = hf.CLIPConfig(text_config=text, vision_config=vision, **settings)
        images: Any = hf.CLIPImageProcessor(size=size, crop_size=size)
        processor: Any = hf.CLIPProcessor(image_processor=images, tokenizer=tokenizer)
        return hf.CLIPModel(config).eval(), processor
    if kind == "siglip":
        config = hf.SiglipConfig(text_config=text, vision_config=vision)
        images = hf.SiglipImageProcessor(size=size)
        processor = hf.SiglipProcessor(image_processor=images, tokenizer=tokenizer)
        return hf.SiglipModel(config).eval(), processor
    config = hf.Siglip2Config(
        text_config=text, vision_config={**vision, "num_patches": 4}
    )
    images = hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    processor = hf.Siglip2Processor(image_processor=images, tokenizer=tokenizer)
    return hf.Siglip2Model(config).eval(), processor


def clip(directory: Path) -> Example:
    """A CLIP of open_clip, whose attention keeps query, key and value in one bare parameter."""
    alone = 'import open_clip; model = open_clip.create_model(f"local-dir:{directory}")'
    return _example(directory, write(directory / "model", tiny_config()), alone)


def siglip(directory: Path) -> Example:
    """A SigLIP of transformers."""
    model, processor = tiny_transformers("siglip")
    place = directory / "model"
    with quiet():
        model.save_pretrained(place)
        processor.save_pretrained(place)
    alone = (
        "import transformers; "
        'model = transformers.AutoModel.from_pretrained(directory, dtype="auto")'
    )
    return _example(directory, place, alone)


def _example(directory: Path, place: Path, alone: str) -> Example:
    return Example(
        Source(str(place)),
        DataRequest(
            calibration=str(image_folder(directory / "train")),
            report=str(image_folder(directory / "report", images=4, seed=1)),
            samples=12,
            search_samples=8,
            report_samples=12,
        ),
        alone=alone,
    )
