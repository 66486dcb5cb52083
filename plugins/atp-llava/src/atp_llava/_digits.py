"""``embedded:digits-llava``: a small LLaVA that answers questions about handwritten digits.

A CLIP-style vision tower of four blocks learns to tell the digits; then tower, projector and a
Llama of eight blocks learn the questions together. It is saved with its processor as any LLaVA is
and loaded from there like a user's directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch.nn import functional

from atp_core.data import open_image
from atp_core.digits import CLASSES, SIZE, cached, fit, folder

from ._quiet import quiet

__all__ = ["directory"]

_SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_WIDTH: Final = 64
_PATCH: Final = 8
_PATCHES: Final = (SIZE // _PATCH) ** 2
_CHAT: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}user : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}"
    "{% else %}assistant : {{ message['content'][0]['text'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def directory() -> Path:
    """Where the model lies; it is trained when first asked for, in about half a minute."""
    return cached("digits-llava-1", _build)


def _build(target: Path) -> None:
    questions = [
        json.loads(line)
        for line in (folder() / "questions-train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    processor = _processor(questions)
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    try:
        torch.manual_seed(0)
        model = _model(processor)
        _train(model, processor, questions)
    finally:
        torch.random.set_rng_state(state)
        torch.set_num_threads(threads)
    with quiet():
        model.save_pretrained(target)
        processor.save_pretrained(target)


def _processor(questions: list[dict[str, str]]) -> Any:
    """One token a word; images keep their size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word for one in questions for word in f"{one['question']} {one['answer']}".split()}
    vocabulary = [*_SPECIAL, *sorted(words | {"user", "assistant", ":"})]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    side = {"height": SIZE, "width": SIZE}
    make: Any = transformers  # its processors have no annotations
    return make.LlavaProcessor(
        image_processor=make.CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=make.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            additional_special_tokens=["<image>"],
        ),
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT,
    )


def _model(processor: Any) -> Any:
    vision = transformers.CLIPVisionConfig(
        hidden_size=_WIDTH, intermediate_size=3 * _WIDTH, num_hidden_layers=4,
        num_attention_heads=4, image_size=SIZE, patch_size=_PATCH, projection_dim=_WIDTH,
        initializer_factor=3.0,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        hidden_size=_WIDTH, intermediate_size=3 * _WIDTH, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        vocab_size=len(processor.tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2,
        initializer_range=0.1,  # the usual 0.02 is meant for far wider models
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=_PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return transformers.LlavaForConditionalGeneration(config)


def _train(model: Any, processor: Any, questions: list[dict[str, str]]) -> None:
    names = sorted({one["image"] for one in questions})
    pixels = processor.image_processor(
        [open_image(folder() / name) for name in names], return_tensors="pt"
    )["pixel_values"]
    labels = torch.tensor([CLASSES.index(Path(name).parent.name) for name in names])
    features = _see(model, pixels, labels)
    _answer(model, processor, questions, names, features)


def _see(model: Any, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Teach the tower to tell the digits from what the projector reads.

    Returns:
        What the projector reads of every image, shape (images, patches, width).
    """
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    head = torch.nn.Linear(_WIDTH, len(CLASSES))

    def read(images: torch.Tensor) -> torch.Tensor:
        states = tower(images, output_hidden_states=True).hidden_states
        found: torch.Tensor = states[layer][:, 1:]
        return found

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(read(pixels[chosen]).mean(1)), labels[chosen])

    fit(
        torch.nn.ModuleList([tower, head]),
        len(labels),
        loss,
        steps=250,
        batch_size=64,
        learning_rate=1e-3,
    )
    with torch.no_grad():
        return read(pixels)


def _answer(
    model: Any,
    processor: Any,
    questions: list[dict[str, str]],
    names: list[str],
    features: torch.Tensor,
) -> None:
    """Teach projector and language model the questions; the tower stays as it is, as in LLaVA.

    The loss is on the answer and the end of text.
    """
    place = {name: i for i, name in enumerate(names)}
    image = torch.tensor([place[one["image"]] for one in questions])
    tokenizer = processor.tokenizer
    patches = "<image>" * _PATCHES
    rows = []
    for one in questions:
        text = f"user : {patches} {one['question']} assistant : {one['answer']}"
        rows.append([*tokenizer(text).input_ids, tokenizer.eos_token_id])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    targets = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        targets[i, len(row) - 2 : len(row)] = torch.tensor(row[-2:])
    first = rows[0].index(tokenizer.convert_tokens_to_ids("<image>"))
    projector, embedding = model.model.multi_modal_projector, model.get_input_embeddings()

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        words, seen = embedding(ids[chosen]), projector(features[image[chosen]])
        inputs = torch.cat([words[:, :first], seen, words[:, first + _PATCHES :]], 1)
        found: torch.Tensor = model(
            inputs_embeds=inputs, attention_mask=mask[chosen], labels=targets[chosen]
        ).loss
        return found

    learnt = torch.nn.ModuleList([projector, model.model.language_model, model.lm_head])
    fit(learnt, len(rows), loss, steps=250, batch_size=64, learning_rate=2e-3)
