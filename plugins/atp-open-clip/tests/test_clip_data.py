"""Calibration data, and data that is not what it should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import atp_core
import atp_open_clip
from atp_core.cli import main
from atp_core.errors import DataError, ModelError
from atp_core.progress import NullProgress
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source


class Notes(NullProgress):
    """Remembers what a user would be told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def calibrate(loaded: LoadedModel, path: object, **request: Any) -> Any:
    return atp_open_clip.atp_calibrate(loaded, DataRequest(calibration=str(path), **request))


def test_class_folders_give_a_text_each(loaded: LoadedModel, colours: Path) -> None:
    found = calibrate(loaded, colours, samples=12)
    assert found.samples == sum(found.batch_samples) == 12
    assert found.batch_samples == [8, 4]
    images, texts = found.batches[0]
    assert images["image"].shape == (8, 3, 16, 16) and texts["text"].shape == (8, 10)
    assert len(torch.unique(texts["text"], dim=0)) >= 6, "classes and templates vary"
    assert found.unit == "images with texts" and "calibration part" in found.dataset
    out = found.forward(found.batches[0])
    assert out[0].shape == (8, 16)
    again = calibrate(loaded, colours, samples=12)
    assert again.fingerprint == found.fingerprint
    assert calibrate(loaded, colours, samples=12, seed=1).fingerprint != found.fingerprint


def test_pairs_give_their_captions(loaded: LoadedModel, pairs: Path) -> None:
    found = calibrate(loaded, pairs, samples=8)
    tokenizer: Any = loaded.processor.tokenizer
    captions = {
        text
        for line in pairs.read_text().splitlines()
        for field in ("text", "caption")
        for text in _listed(json.loads(line).get(field, []))
    }
    known = {tuple(row) for row in tokenizer(sorted(captions)).tolist()}
    assert {tuple(row) for row in found.batches[0][1]["text"].tolist()} <= known


def _listed(found: Any) -> list[str]:
    return [found] if isinstance(found, str) else found


def test_captions_of_one_image_in_several_lines_are_joined(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    for i in range(2):
        Image.new("RGB", (8, 8), (100 * i, 9, 9)).save(tmp_path / f"{i}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    lines = [("0.png", "one"), ("1.png", "two"), ("copy.png", "three"), ("0.png", "one")]
    (tmp_path / "p.jsonl").write_text(
        "\n".join(json.dumps({"image": name, "caption": text}) for name, text in lines)
    )
    found = atp_open_clip.atp_evaluate(
        loaded, DataRequest(report=str(tmp_path / "p.jsonl")), "report", None
    )
    assert found.metric("image_to_text_recall@1").n == 2
    assert found.metric("text_to_image_recall@1").n == 3


def test_a_default_number_takes_what_there_is_and_says_so(
    loaded: LoadedModel, colours: Path
) -> None:
    loaded.progress = notes = Notes()
    found = calibrate(loaded, colours)
    assert found.samples < 36
    assert len(notes.told) == 1 and "not the usual 128" in notes.told[0]
    with pytest.raises(DataError, match=r"--samples asks for 30; give more data"):
        calibrate(loaded, colours, samples=30)


class TestBadInput:
    """One clear line, whatever is wrong."""

    def test_no_data(self, loaded: LoadedModel) -> None:
        with pytest.raises(DataError, match=r"give --calibration with a directory"):
            atp_open_clip.atp_calibrate(loaded, DataRequest())

    def test_images_without_classes(self, loaded: LoadedModel, colours: Path) -> None:
        with pytest.raises(DataError, match=r"neither classes nor captions"):
            calibrate(loaded, colours / "red")

    def test_no_image(self, loaded: LoadedModel, colours: Path) -> None:
        (colours / "red" / "notes.txt").write_text("x")
        with pytest.raises(DataError, match=r"notes.txt is not an image"):
            calibrate(loaded, colours)

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
    def test_broken_images(self, loaded: LoadedModel, colours: Path, content: bytes) -> None:
        (colours / "red" / "00.png").write_bytes(content)
        with pytest.raises(DataError, match=r"00.png"):
            atp_open_clip.atp_evaluate(loaded, DataRequest(report=str(colours)), "report", None)

    def test_an_empty_class_folder(self, loaded: LoadedModel, colours: Path) -> None:
        (colours / "violet").mkdir()
        with pytest.raises(DataError, match=r"violet holds no images"):
            calibrate(loaded, colours)

    def test_one_class(self, loaded: LoadedModel, colours: Path) -> None:
        for name in ("red", "green"):
            shutil.rmtree(colours / name)
        with pytest.raises(DataError, match=r"one class only"):
            calibrate(loaded, colours)

    def test_too_few_classes_named(
        self, loaded: LoadedModel, colours: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "classes.txt").write_text("red\tred\ngreen\tgreen\n")
        with pytest.raises(DataError, match=r"names 2 classes, and 1 of 3 class .*'deep_blue'"):
            calibrate(loaded, colours, classes=str(tmp_path / "classes.txt"))

    def test_a_template_without_a_place(
        self, loaded: LoadedModel, colours: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "t.txt").write_text("a photo\n")
        with pytest.raises(DataError, match=r"must hold {} once"):
            calibrate(loaded, colours, templates=str(tmp_path / "t.txt"))

    @pytest.mark.parametrize(
        ("record", "told"),
        [
            ({"text": "a"}, "has no 'image'"),
            ({"image": "img/0.png"}, 'record 21 .* has no caption: expected "text" or "caption"'),
            ({"image": "img/0.png", "text": []}, "has no caption"),
            ({"image": "img/0.png", "text": [1]}, "has no caption"),
            ({"image": 5, "text": "a"}, '"image" must be a path in record 21'),
            ({"image": "img/none.png", "text": "a"}, "none.png"),
        ],
    )
    def test_records(
        self, loaded: LoadedModel, pairs: Path, record: dict[str, Any], told: str
    ) -> None:
        pairs.write_text(pairs.read_text() + "\n" + json.dumps(record))
        with pytest.raises(DataError, match=told):
            calibrate(loaded, pairs)

    def test_not_json(self, loaded: LoadedModel, pairs: Path) -> None:
        pairs.write_text("image,text\na.png,b\n")
        with pytest.raises(DataError, match=r"line 1, is not JSON"):
            calibrate(loaded, pairs)

    def test_one_pair_cannot_be_retrieved(self, loaded: LoadedModel, pairs: Path) -> None:
        pairs.write_text(pairs.read_text().splitlines()[0])
        with pytest.raises(DataError, match=r"two or more of both"):
            atp_open_clip.atp_evaluate(loaded, DataRequest(report=str(pairs)), "report", None)
        request = DataRequest(calibration=str(pairs))
        with pytest.raises(DataError, match=r"1 images, too few to hold out a search part"):
            atp_open_clip.atp_evaluate(loaded, request, "search", None)

    def test_a_hub_dataset(self, loaded: LoadedModel) -> None:
        with pytest.raises(DataError, match=r"datasets of the hub are not read here"):
            calibrate(loaded, "hf:cifar10")

    def test_nothing_there(self, loaded: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no image file or directory"):
            calibrate(loaded, tmp_path / "none")

    def test_no_tokenizer(self, loaded: LoadedModel, colours: Path) -> None:
        loaded.processor.tokenizer = None
        with pytest.raises(ModelError, match=r"has no tokenizer: put its files"):
            calibrate(loaded, colours)

    def test_no_processor_of_transformers(
        self, tiny_transformers: Callable[[str], Any], colours: Path
    ) -> None:
        source = Source("CLIPModel", model=tiny_transformers("clip"))
        loaded = atp_open_clip.atp_load(source, LoadRequest())
        with pytest.raises(ModelError, match=r"CLIPModel has no image processor.*PROCESSOR"):
            calibrate(loaded, colours)

    def test_nothing_is_written(
        self, directory: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (colours / "red" / "00.png").write_bytes(b"")
        out = tmp_path / "out"
        command = ["prune", str(directory), "--calibration", str(colours), "--sparsity", "0.5"]
        code = main([*command, "--samples", "16", "-o", str(out)])
        assert code == 4
        assert "00.png is empty" in capsys.readouterr().err
        assert not out.exists()

    def test_a_chain_it_does_not_have(self, directory: Path, colours: Path) -> None:
        with pytest.raises(atp_core.errors.UsageError, match=r"unknown chain 'vison'.*'vision'"):
            atp_core.prune(
                directory, sparsity=0.5, chains=["vison"], calibration=str(colours), samples=8
            )
