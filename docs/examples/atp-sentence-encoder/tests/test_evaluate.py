"""The figures, and what they compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from atp_core.errors import UsageError
from atp_core.records import DataRequest, LoadedModel, LoadRequest

from atp_sentence_encoder._evaluate import evaluate
from atp_sentence_encoder._example import example
from atp_sentence_encoder._load import load
from atp_sentence_encoder._locate import locate


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load(example(tmp_path).source, LoadRequest())


def cut(loaded: LoadedModel) -> None:
    for weight in locate(loaded.model)[0].blocks[0].weights:
        weight.matrix().zero_()
    loaded.pruned = True


def test_the_dense_model_is_compared_with_itself(loaded: LoadedModel) -> None:
    found = evaluate(loaded, DataRequest(), "search")
    assert [(metric.value, metric.stderr) for metric in found.metrics] == [(1.0, 0.0)] * 2


def test_a_pruned_model_is_compared_with_the_dense_one(loaded: LoadedModel) -> None:
    data = DataRequest(report_samples=20)
    evaluate(loaded, data, "report")
    [dense] = loaded.dense.values()
    cut(loaded)
    found = evaluate(loaded, data, "report")
    [dense_kept] = loaded.dense.values()
    assert dense_kept is dense, "the pruned model's embeddings took the place of the dense one's"
    seen = found.observations["cosine"]
    assert frozenset(seen.ids) == found.examples and len(seen.ids) == 20
    cosine = found.metric("cosine")
    assert cosine.value == pytest.approx(sum(seen.values) / 20)
    spread = torch.tensor(seen.values, dtype=torch.float64).std() / 20**0.5
    assert cosine.stderr == pytest.approx(float(spread))
    assert 0.0 < found.metric("spearman").value < 1.0


def test_without_the_dense_model_nothing_is_made_up(loaded: LoadedModel) -> None:
    cut(loaded)
    with pytest.raises(UsageError, match="measure that one first"):
        evaluate(loaded, DataRequest(), "search")
