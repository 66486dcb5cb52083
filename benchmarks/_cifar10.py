"""Lays out the CIFAR-10 models and data of a folder the way a user would have them.

Below the folder lie ``models/{vit-cifar10-142k,clip-cifar10,llava-cifar10,stories260k}`` and
``data/{cifar10-jpeg,imagenet-sample-1k}``; nothing in it is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["laid_out"]

_ANIMALS: Final = ("bird", "cat", "deer", "dog", "frog", "horse")
_PER_CLASS: Final = 1000  # test images of a class, by which questions count them
_PROMPT: Final = "<s> user : <image> {} assistant :"
_VIT: Final[dict[str, Any]] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 10,
    "model_args": {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 8,
        "mlp_ratio": 2,
        "act_layer": "gelu_tanh",
        "num_classes": 10,
    },
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.2010],
    },
}


@contextmanager
def laid_out(root: Path | None) -> Iterator[None]:
    """Work in a temporary folder that `root` is laid out in, if there is one."""
    with tempfile.TemporaryDirectory() as work:
        if root is not None:
            _lay_out(root.resolve(), Path(work))
        os.chdir(work)
        yield


def _lay_out(root: Path, work: Path) -> None:
    """Fill `work` with links to `root`, a timm model directory, and lists of questions.

    Questions for calibration and search are made from the names of the training images' classes;
    those of the report are the model's own test questions, about the test images that are there.
    """
    models = work / "models"
    models.mkdir(parents=True)
    os.symlink(root / "data", work / "data")
    for name in ("clip-cifar10", "llava-cifar10", "stories260k"):
        os.symlink(root / "models" / name, models / name)
    vit = models / "vit-cifar10"
    vit.mkdir()
    weights = root / "models" / "vit-cifar10-142k" / "vit_cifar10_timm.safetensors"
    shutil.copyfile(weights, vit / "model.safetensors")
    (vit / "config.json").write_text(json.dumps(_VIT), encoding="utf-8")
    (work / "prompt.txt").write_text(_PROMPT + "\n", encoding="utf-8")
    _write(work / "questions-train.jsonl", _train_questions(work))
    _write(work / "questions-test.jsonl", _test_questions(work))


def _write(file: Path, records: Iterator[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _train_questions(work: Path) -> Iterator[dict[str, str]]:
    images = "data/cifar10-jpeg/train"
    names = sorted(folder.name for folder in (work / images).iterdir())
    for k, name in enumerate(names):
        for i, file in enumerate(sorted((work / images / name).iterdir())):
            image = f"{images}/{name}/{file.name}"
            # Half of the animals asked after are there. The model was asked after no others.
            other = _ANIMALS[(i + k) % len(_ANIMALS)]
            asked = name if i % 2 and name in (*_ANIMALS, "ship") else other
            yield {"image": image, "question": "what is in the picture ?", "answer": name,
                   "category": "class"}  # fmt: skip
            yield {"image": image, "question": f"is there a {asked} in the picture ?",
                   "answer": "yes" if asked == name else "no", "category": "exists"}  # fmt: skip
            yield {"image": image, "question": "is it an animal or a vehicle ?",
                   "answer": "animal" if name in _ANIMALS else "vehicle",
                   "category": "kind"}  # fmt: skip


def _test_questions(work: Path) -> Iterator[dict[str, str]]:
    lines = (work / "models/llava-cifar10/questions_test.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    names = sorted({record["class"] for record in records})
    for record in records:
        place = record["test_index"] - _PER_CLASS * names.index(record["class"])
        image = f"data/cifar10-jpeg/test/{record['class']}/{place:04d}.jpg"
        if (work / image).is_file():
            yield {"image": image, "question": record["question"], "answer": record["answer"],
                   "category": record["kind"]}  # fmt: skip
