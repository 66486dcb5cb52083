"""A tiny model with data, on which the conformance suite walks through all hooks in seconds."""

from __future__ import annotations

import json
import random
import shutil
import string
from pathlib import Path
from typing import Any

import torch
import transformers
from atp_core.records import DataRequest, Source
from atp_core.testing import Example

from ._files import plain_layout, write_layout
from ._load import quiet

__all__ = ["example"]

# How users load what we save. It runs where neither atp-prune nor this package is there.
_ALONE = "import transformers; model = transformers.AutoModel.from_pretrained(directory)"


def example(directory: Path) -> Example:
    """Write the model and its data into `directory`, and say how they are used."""
    rng = random.Random(0)
    for name, sentences in (("calibration", 48), ("report", 24)):
        lines = [_sentence(rng) for _ in range(sentences)]
        (directory / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    _write_model(directory / "model")
    # The same, but for a module that is not known here.
    shutil.copytree(directory / "model", directory / "dense")
    modules = json.loads((directory / "dense" / "modules.json").read_text(encoding="utf-8"))
    modules[-1]["type"] = "sentence_transformers.models.Dense"
    (directory / "dense" / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    return Example(
        source=Source(str(directory / "model")),
        data=DataRequest(
            calibration=str(directory / "calibration.txt"),
            report=str(directory / "report.txt"),
            samples=16,
            search_samples=8,
        ),
        alone=_ALONE,
        unsupported=[Source(str(directory / "dense"))],
    )


def _sentence(rng: random.Random) -> str:
    words = ("".join(rng.choices(string.ascii_lowercase, k=3)) for _ in range(rng.randint(3, 5)))
    return " ".join(words)


def _write_model(directory: Path) -> None:
    """A BERT of random weights that reads letter by letter."""
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    hf: Any = transformers
    config = hf.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with quiet():
            hf.BertModel(config).save_pretrained(directory)
    hf.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(directory)
    write_layout(plain_layout(16), directory)
