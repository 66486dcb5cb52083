"""Reading and splitting the sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Split

from atp_sentence_encoder._data import part_for
from atp_sentence_encoder._example import example
from atp_sentence_encoder._load import load

SPLITS: tuple[Split, ...] = ("calibration", "search", "report")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load(example(tmp_path).source, LoadRequest())


def written(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines), encoding="utf-8")
    return str(file)


def test_parts_of_one_file_share_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    file = written(tmp_path / "all.txt", *(f"sentence {i % 90}" for i in range(130)), "", "  ")
    data = DataRequest(calibration=file, report=file)
    parts = [part_for(loaded, data, split) for split in SPLITS]
    # 90 of the lines are different.
    assert sum(len(part.sentences) for part in parts) == 90
    assert len({identity for part in parts for identity in part.identities}) == 90


def test_the_builtin_sentences_fill_every_default(loaded: LoadedModel) -> None:
    parts = {split: part_for(loaded, DataRequest(), split) for split in SPLITS}
    assert len(parts["calibration"].sentences) == 128
    assert len(parts["search"].sentences) == 64
    assert len(parts["report"].sentences) >= 64
    sentences = [sentence for part in parts.values() for sentence in part.sentences]
    assert len(set(sentences)) == len(sentences)


def test_a_directory_gives_the_lines_of_its_files(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    written(folder / "a.txt", "one", "two", "three")
    written(folder / "b.jsonl", json.dumps({"text": "four"}), json.dumps({"sentence": "five"}))
    written(folder / "notes.md", "not this")
    part = part_for(loaded, DataRequest(report=str(folder)), "report")
    assert sorted(part.sentences) == ["five", "four", "one", "three", "two"]


def test_smaller_samples_are_part_of_larger_ones(loaded: LoadedModel) -> None:
    few, many = (part_for(loaded, DataRequest(samples=n, seed=3), "calibration") for n in (10, 40))
    assert list(few.sentences) == list(many.sentences)[:10]
    other = part_for(loaded, DataRequest(samples=10, seed=4), "calibration")
    assert set(other.sentences) != set(few.sentences)


def test_what_is_wrong_is_told(loaded: LoadedModel, tmp_path: Path) -> None:
    wrong = written(tmp_path / "wrong.jsonl", json.dumps({"text": "good"}), json.dumps({"a": 1}))
    with pytest.raises(DataError, match="line 2"):
        part_for(loaded, DataRequest(calibration=wrong), "calibration")
    with pytest.raises(DataError, match="nowhere"):
        part_for(loaded, DataRequest(calibration="nowhere"), "calibration")
    short = written(tmp_path / "short.txt", *map(str, range(20)))
    with pytest.raises(DataError, match="50 are needed"):
        part_for(loaded, DataRequest(calibration=short, samples=50), "calibration")
    empty = written(tmp_path / "empty.txt", "", "")
    with pytest.raises(DataError, match="holds no sentences"):
        part_for(loaded, DataRequest(calibration=empty), "calibration")
