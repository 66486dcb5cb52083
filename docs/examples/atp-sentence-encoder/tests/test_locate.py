"""What is located, and that it is where it is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from atp_core.errors import ModelError
from atp_core.records import LoadRequest, Source

from atp_sentence_encoder._encode import embed
from atp_sentence_encoder._example import example
from atp_sentence_encoder._load import load
from atp_sentence_encoder._locate import locate

hf: Any = transformers

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 57,
    "max_position_embeddings": 64,
}
SENTENCES = ["abc def", "xyz", "a longer one this is"]


def test_every_matrix_of_a_layer_is_located_and_no_other(tmp_path: Path) -> None:
    loaded = load(example(tmp_path).source, LoadRequest())
    [chain] = locate(loaded.model)
    assert [block.name for block in chain.blocks] == [f"encoder.layer.{i}" for i in range(3)]
    found = {weight.name for block in chain.blocks for weight in block.weights}
    assert found == {
        name
        for name, value in loaded.model.named_parameters()
        if name.startswith("encoder.") and value.dim() == 2
    }
    assert set(chain.dense) == {"embeddings", "pooler"}


def test_the_pooler_is_not_used(tmp_path: Path) -> None:
    loaded = load(example(tmp_path).source, LoadRequest())
    before = embed(loaded, SENTENCES, 1)
    with torch.no_grad():
        loaded.model.get_submodule("pooler.dense").get_parameter("weight").zero_()
    assert torch.equal(embed(loaded, SENTENCES, 1), before)


@pytest.mark.parametrize("kind", ["Bert", "Camembert", "MPNet", "Roberta", "XLMRoberta"])
def test_every_architecture_is_located_and_runs(kind: str, tmp_path: Path) -> None:
    config = getattr(hf, f"{kind}Config")(**SIZES)
    tokenizer = hf.AutoTokenizer.from_pretrained(example(tmp_path).source.text)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = getattr(hf, f"{kind}Model")(config).eval()
    loaded = load(Source(kind, model=model, processor=tokenizer), LoadRequest())
    [chain] = locate(loaded.model)
    for block in chain.blocks:
        # query, key, value, output: 16 x 16 each; the two of the MLP: 16 x 32.
        assert block.parameters == 4 * 16 * 16 + 2 * 16 * 32
        shape = torch.Size([2, 7, 16])
        outputs = block.module(torch.zeros(shape))
        assert (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).shape == shape
    before = embed(loaded, SENTENCES, 1)
    for block in chain.blocks:
        for weight in block.weights:
            weight.matrix().zero_()
    assert not torch.allclose(embed(loaded, SENTENCES, 1), before)


def test_models_with_a_head_are_refused() -> None:
    model = hf.BertForMaskedLM(hf.BertConfig(**SIZES))
    with pytest.raises(ModelError, match="without a head"):
        load(Source("BertForMaskedLM", model=model), LoadRequest())
