"""A small CLIP that knows handwritten digits, trained on the spot and kept.

It is written in open_clip's hub layout, with a tokenizer of its own, and from there on goes the
way of any local directory.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from atp_core.data import open_image, read_jsonl
from atp_core.digits import CLASSES, SIZE, cached, fit, folder
from atp_core.errors import ModelError

__all__ = ["directory"]

_CONTEXT: Final = 8
_STEPS: Final = 260
_BATCH: Final = 64


def directory() -> Path:
    """The trained model, in open_clip's hub layout; about half a minute when first asked for.

    Raises:
        ModelError: training went astray.
        DataError: scikit-learn, which carries the digits, is not installed.
    """
    return cached("digits-clip-1", _build)


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {
                "image_size": SIZE,
                "patch_size": 4,
                "layers": 8,
                "width": 64,
                "head_width": 16,
                "mlp_ratio": 4.0,
            },
            "text_cfg": {
                "context_length": _CONTEXT,
                "vocab_size": vocabulary,
                "width": 64,
                "heads": 4,
                "layers": 6,
                # Of the model's own directory, where it is loaded from one.
                "hf_tokenizer_name": "digits-clip",
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def _build(target: Path) -> None:
    import open_clip
    import safetensors.torch
    import torch
    from torch.nn import functional

    from ._labels import TEMPLATES
    from ._quiet import quiet
    from ._source import CONFIG_NAME

    captions = folder() / "captions-train.jsonl"
    records = [record for _, record in read_jsonl(captions, ["image", "text"])]
    classes = [str(record["image"]).split("/")[1] for record in records]
    texts = [
        [record["text"], *(sentence.format(name) for sentence in TEMPLATES)]
        for record, name in zip(records, classes, strict=True)
    ]
    vocabulary = _write_tokenizer(target, sorted(set(_words(texts))))
    (target / CONFIG_NAME).write_text(json.dumps(_config(vocabulary), indent=2), encoding="utf-8")
    name = f"local-dir:{target}"
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
        pixels = torch.stack(
            [preprocess(open_image(folder() / str(record["image"]))) for record in records]
        )
        choice = random.Random(0)

        def loss(chosen: torch.Tensor) -> torch.Tensor:
            captions = [choice.choice(texts[i]) for i in chosen.tolist()]
            distinct = list(dict.fromkeys(captions))
            same = torch.tensor([distinct.index(caption) for caption in captions])
            images = model.encode_image(pixels[chosen], normalize=True)
            words = model.encode_text(tokenizer(distinct), normalize=True)
            logits = model.logit_scale.exp() * images @ words.T
            to_text = functional.cross_entropy(logits, same)
            # A text may be of several images: to it, they are right together.
            others = functional.one_hot(same, len(distinct)) == 0
            right = logits.masked_fill(others, -torch.inf).logsumexp(0)
            to_image = logits.logsumexp(0) - right
            both: torch.Tensor = to_text / 2 + to_image.mean() / 2
            return both

        last = fit(
            model,
            len(records),
            loss,
            steps=_STEPS,
            batch_size=_BATCH,
            learning_rate=2e-3,
            title="training the digits CLIP",
        )
    if not last < 2.0:
        raise ModelError(f"training the digits CLIP ended with a loss of {last:.2f}; report this")
    safetensors.torch.save_file(model.state_dict(), target / "open_clip_model.safetensors")


def _words(texts: list[list[str]]) -> Iterator[str]:
    for sentences in texts:
        for sentence in sentences:
            yield from sentence.replace(".", " .").split()


def _write_tokenizer(target: Path, words: list[str]) -> int:
    """Write a tokenizer with a token a word, and return the size of its vocabulary.

    open_clip pools a text where the highest token is, so the end of a text has that number.
    """
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    known = ["<pad>", "<unk>", *dict.fromkeys([*words, *CLASSES, "digit", "number"]), "<s>", "</s>"]
    numbers = {word: i for i, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", numbers["<s>"]), ("</s>", numbers["</s>"])]
    )
    library: Any = transformers
    library.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=_CONTEXT,
    ).save_pretrained(target)
    return len(known)
