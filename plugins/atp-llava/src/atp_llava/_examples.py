"""Tiny random vision-language models that show the plugin at work, and questions about images."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from atp_core.records import DataRequest, Source
from atp_core.testing import Example

from ._quiet import quiet

__all__ = ["KINDS", "llava", "tiny", "tokenizer", "write_questions"]

KINDS = ("llava", "llava_next", "llava_onevision")

WORDS = [
    *("USER:", "ASSISTANT:", "user", "assistant", ":", "what", "is", "this", "?", "a", "the"),
    *("there", "in", "image", "yes", "no", "cat", "dog", "ship", "car", "bird", "even", "odd"),
    *("dark", "bright", "red", "blue", ".", "not", ",", "one", "two", "three"),
]
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>")
SIDE, PATCH = 28, 7
CHAT = (
    "{% for message in messages %}user : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]

# Its constructors are typed for arguments that are written out, and here they come in tables.
hf: Any = transformers


def tokenizer() -> Any:
    """One token a word, and <s> before a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", additional_special_tokens=["<image>", "<video>"],
    )  # fmt: skip


def tiny(kind: str = "llava", chat: str | None = CHAT, **changes: Any) -> tuple[Any, Any]:
    """A random model of `kind` in eval mode, and its processor.

    Args:
        kind: one of `KINDS`.
        chat: chat template of the processor.
        changes: of the model's config.
    """
    torch.manual_seed(0)
    words = tokenizer()
    text_type = hf.Qwen2Config if kind == "llava_onevision" else hf.LlamaConfig
    text = text_type(vocab_size=len(words), **TEXT)
    size = {"height": SIDE, "width": SIDE}
    if kind == "llava":
        vision = hf.CLIPVisionConfig(**VISION, projection_dim=16)
        settings = {"image_token_index": 4, "image_seq_length": 16, **changes}
        config = hf.LlavaConfig(vision_config=vision, text_config=text, **settings)
        model = hf.LlavaForConditionalGeneration(config)
        processor = hf.LlavaProcessor(
            hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size),
            words,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat,
        )
    elif kind == "llava_next":
        vision = hf.CLIPVisionConfig(**VISION, projection_dim=16)
        settings = {"image_token_index": 4, "image_grid_pinpoints": GRID, **changes}
        config = hf.LlavaNextConfig(vision_config=vision, text_config=text, **settings)
        model = hf.LlavaNextForConditionalGeneration(config)
        processor = hf.LlavaNextProcessor(
            hf.LlavaNextImageProcessor(
                size={"shortest_edge": SIDE}, crop_size=size, image_grid_pinpoints=GRID
            ),
            words,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat,
        )
    else:
        vision = hf.SiglipVisionConfig(**VISION, vision_use_head=False)
        settings = {
            "image_token_index": 4,
            "video_token_index": 5,
            "image_grid_pinpoints": GRID,
            **changes,
        }
        config = hf.LlavaOnevisionConfig(
            vision_config=vision, text_config=text, **settings
        )
        model = hf.LlavaOnevisionForConditionalGeneration(config)
        processor = hf.LlavaOnevisionProcessor(
            hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=GRID),
            words,
            hf.LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=(SIDE // PATCH) ** 2,
            vision_feature_select_strategy="full",
            chat_template=chat,
        )
    with torch.no_grad():  # outputs that differ between tokens, unlike those of tiny init values
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval(), processor


def write_questions(
    directory: Path,
    count: int = 24,
    *,
    sizes: Sequence[tuple[int, int]] = ((28, 28),),
    seed: int = 0,
) -> Path:
    """A file of three questions about each of `count` random images, in folder images/."""
    random_ = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    (directory / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        width, height = sizes[i % len(sizes)]
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        name = f"images/{i:03d}.png"
        Image.fromarray(pixels.numpy()).save(directory / name)
        kind = random_.choice(["cat", "dog", "ship"])
        lines += [
            {"image": name, "question": "what is this ?", "answer": kind, "category": "class"},
            {"image": name, "question": "is there a cat in the image ?",
             "answer": random_.choice(["yes", "no"]), "category": "existence"},
            {"image": name, "question": "is this dark ?", "answer": random_.choice(
                ["a red one", "a blue one", "dark"]), "category": "look"},
        ]  # fmt: skip
    file = directory / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def llava(directory: Path) -> Example:
    """A LLaVA: three blocks of a vision tower, of which two are read, and four of a Llama."""
    model, processor = tiny()
    place = directory / "model"
    with quiet():
        model.save_pretrained(place)
        processor.save_pretrained(place)
    return Example(
        Source(str(place)),
        DataRequest(
            calibration=str(write_questions(directory / "train")),
            report=str(write_questions(directory / "report", count=8, seed=1)),
            samples=8,
            search_samples=8,
            report_samples=16,
        ),
        alone=(
            "import transformers; model = transformers.AutoModelForImageTextToText"
            '.from_pretrained(directory, dtype="auto")'
        ),
    )
