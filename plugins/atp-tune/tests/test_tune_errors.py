"""Wrong requests: one sentence with the culprit and the remedy, and nothing written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import atp_tune
from atp_core.cli import main
from atp_core.errors import DataError, ModelError, PluginError, UsageError


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mode": "qlora"}, "mode 'qlora' is neither 'lora' nor 'full'"),
        ({"steps": 3, "epochs": 1.0}, "--steps and --epochs both say how long to train"),
        ({"lr": 0.0}, "--lr must be a number above 0, not 0"),
        ({"epochs": float("nan")}, "--epochs must be a number above 0, not nan"),
        ({"weight_decay": -1.0}, "--weight-decay must not be negative, and is -1"),
        ({"mode": "full", "rank": 4}, "--rank and --alpha are for --mode lora"),
        ({"teacher_weight": 0.5}, "--teacher-weight has no effect without --teacher"),
        ({"teacher": "x", "teacher_weight": 1.5}, "--teacher-weight must be above 0 and at most 1"),
        ({"max_memory": "1GiB"}, "training takes the whole model in memory"),
    ],
)
def test_wrong_settings(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        atp_tune.tune("anything", output=tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_peft_is_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PluginError, match=r"--mode lora needs PEFT.*atp-prune\[tune\]"):
        atp_tune.tune("anything", output=tmp_path / "out")


def test_one_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="trains in one process"):
        atp_tune.tune("anything", output=tmp_path / "out", mode="full")


def test_the_source_is_not_overwritten(stories: Path) -> None:
    with pytest.raises(UsageError, match="is the source itself"):
        atp_tune.tune(stories, output=stories, overwrite=True)


def test_a_dense_model_has_nothing_to_keep(
    shared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(shared("models/stories260k"))
    assert main(["tune", source, "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "nothing is pruned in" in said and "`atp prune` wrote" in said
    assert not list(tmp_path.iterdir())


def test_too_little_text(stories: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(json.dumps({"text": f"A cat {i}."}) for i in range(6)))
    with pytest.raises(DataError, match="too little text for calibration"):
        atp_tune.tune(stories, output=tmp_path / "out", calibration=str(short), seqlen=256)
    with pytest.raises(DataError, match="to train on, less than one batch of 64"):
        atp_tune.tune(
            stories, output=tmp_path / "out", calibration=str(short), seqlen=8, batch=64
        )
    assert [path.name for path in tmp_path.iterdir()] == ["short.jsonl"]


def test_no_data(digits: Path, clip: Path, tmp_path: Path) -> None:
    for source in (digits, clip):
        with pytest.raises(DataError, match="--calibration"):
            atp_tune.tune(source, output=tmp_path / "out")


def test_images_without_classes_need_a_teacher(
    digits: Path, digit_images: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, image in enumerate(sorted(digit_images.rglob("*.png"))[:60]):
        (flat / f"{i}.png").write_bytes(image.read_bytes())
    given: dict[str, Any] = {"calibration": str(flat), "steps": 2}
    with pytest.raises(DataError, match="it is not known what the images show"):
        atp_tune.tune(digits, output=tmp_path / "out", **given)
    result = atp_tune.tune(
        digits, output=tmp_path / "out", teacher="embedded:digits-vit", **given
    )
    assert "trained on the outputs of the teacher alone" in result.notes[0]


def test_a_teacher_of_another_kind_is_refused(
    digits: Path, clip: Path, digit_images: Path, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"the teacher .* is a model of plugin 'open-clip'"):
        atp_tune.tune(
            digits, output=tmp_path / "out", calibration=str(digit_images), teacher=str(clip)
        )
    with pytest.raises(UsageError, match="--teacher is for models with classes or tokens"):
        atp_tune.tune(
            clip, output=tmp_path / "out", calibration=str(pairs), teacher=str(clip)
        )


def test_training_that_diverges_is_an_error(stories: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the loss became .*; lower --lr"):
        atp_tune.tune(
            stories, output=tmp_path / "out", calibration=str(text), seqlen=32, steps=12, lr=1e25
        )
    assert not (tmp_path / "out").exists()


def test_data_that_is_reported_on_is_not_trained_on(
    stories: Path, text: Path, tmp_path: Path
) -> None:
    """Where one file serves both, the report part is cut off; a copy of it is found out."""
    given: dict[str, Any] = {
        "calibration": str(text),
        "steps": 2,
        "seqlen": 32,
        "batch": 2,
        "report_samples": 8,
    }
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(text.read_bytes())
    with pytest.raises(DataError, match="are in the training data too"):
        atp_tune.tune(
            stories, output=tmp_path / "out", evaluate=True, report_data=str(copy), **given
        )
    atp_tune.tune(stories, output=tmp_path / "out", evaluate=True, report_data=str(text), **given)
