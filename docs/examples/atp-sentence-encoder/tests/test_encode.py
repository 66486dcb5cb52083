"""From sentences to embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from atp_core.errors import ModelError
from atp_core.records import LoadedModel, LoadRequest

from atp_sentence_encoder._encode import batches, embed
from atp_sentence_encoder._example import example
from atp_sentence_encoder._load import load

SENTENCES = ["abc def", "x", "hello there you", "fed cba", "a much longer sentence than these", "y"]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load(example(tmp_path).source, LoadRequest())


def test_embeddings_are_what_padding_and_a_mask_give(loaded: LoadedModel) -> None:
    """The way of sentence-transformers: pad, and take the mean over the attention mask."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(loaded.source.text)
    model: Any = transformers.AutoModel.from_pretrained(loaded.source.text)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    assert not mask.all(), "nothing is padded, so nothing is compared"
    with torch.inference_mode():
        vectors = model(**inputs).last_hidden_state
    mean = (vectors * mask).sum(1) / mask.sum(1)
    expected = mean / mean.norm(dim=1, keepdim=True)
    found = embed(loaded, SENTENCES, 1)
    assert torch.allclose(found, expected.double(), atol=1e-6)


def test_a_batch_holds_one_length_and_every_sentence_is_in_one(loaded: LoadedModel) -> None:
    made = batches(loaded, SENTENCES * 20, 8)
    assert sorted(row for batch in made for row in batch.rows) == list(range(120))
    for batch in made:
        assert batch.inputs["attention_mask"].all()
        assert len(batch.rows) <= 16
        for row, ids in zip(batch.rows, batch.inputs["input_ids"].tolist(), strict=True):
            assert ids == loaded.processor((SENTENCES * 20)[row])["input_ids"]
    firsts = [batch.rows[0] for batch in made]
    assert firsts == sorted(firsts)


def test_long_sentences_are_cut(loaded: LoadedModel) -> None:
    [batch] = batches(loaded, ["word " * 200], 1)
    assert batch.inputs["input_ids"].shape == (1, 62)


def test_a_model_without_a_tokenizer_is_told(loaded: LoadedModel) -> None:
    loaded.processor = None
    with pytest.raises(ModelError, match="processor=TOKENIZER"):
        embed(loaded, SENTENCES, 1)
