"""Zero-shot accuracy as open_clip's own evaluation measures it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

import atp_open_clip
from atp_core.data import find_images, open_image
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source

TEMPLATES = ["a photo of a {}", "a dark photo of a {}", "a bright photo of a {}"]


@pytest.fixture
def images(shared: Callable[[str], Path], tmp_path: Path) -> Path:
    """40 images of each class of CIFAR-10."""
    for folder in sorted(shared("data/cifar10-jpeg/test").iterdir()):
        (tmp_path / "images" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:40]:
            (tmp_path / "images" / folder.name / file.name).symlink_to(file)
    return tmp_path / "images"


@pytest.fixture
def clip(shared: Callable[[str], Path]) -> LoadedModel:
    """The CLIP trained on CIFAR-10."""
    return atp_open_clip.atp_load(Source(str(shared("models/clip-cifar10"))), LoadRequest())


def test_zero_shot_on_cifar10(clip: LoadedModel, images: Path, tmp_path: Path) -> None:
    folders = sorted(folder.name for folder in images.iterdir())
    names = {folder: folder for folder in folders}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    request = DataRequest(
        report=str(images),
        classes=str(tmp_path / "classes.json"),
        templates=str(tmp_path / "templates.txt"),
    )
    found = atp_open_clip.atp_evaluate(clip, request, "report", None)

    place = f"local-dir:{clip.source.text}"
    model, _, preprocess = open_clip.create_model_and_transforms(place)
    model.eval()
    classifier = open_clip.build_zero_shot_classifier(
        model,
        open_clip.get_tokenizer(place),
        list(names.values()),
        [text.format for text in TEMPLATES],
        device="cpu",
    )
    top1 = top5 = count = 0.0
    with torch.inference_mode():
        for target, folder in enumerate(folders):
            files = sorted((images / folder).iterdir())
            pixels = torch.stack([preprocess(open_image(file)) for file in files])
            logits = 100.0 * model.encode_image(pixels, normalize=True) @ classifier
            # As open_clip_train.zero_shot.accuracy counts, which fails with numpy 2.4.
            correct = logits.topk(5).indices == target
            top1 += float(correct[:, :1].sum())
            top5 += float(correct.sum())
            count += len(files)
    assert found.metric("top1").n == count == 400
    assert found.metric("top1").value == pytest.approx(100 * top1 / count)
    assert found.metric("top5").value == pytest.approx(100 * top5 / count)
    assert 45 < found.metric("top1").value < 75 and found.metric("top5").value > 90
    assert "classes.json, 3 templates" in found.metric("top1").convention


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("names.txt", lambda names: "\n".join(names)),
        ("names.tsv", lambda names: "\n".join(f"{f}\t{name}" for f, name in names.items())),
        ("names.json", lambda names: json.dumps(list(names))),
        ("map.json", lambda names: json.dumps(names)),
    ],
)
def test_class_files_come_in_several_forms(
    clip: LoadedModel, images: Path, tmp_path: Path, name: str, form: Callable[[Any], str]
) -> None:
    """Folders named by ids: what an id is called is told by the forms that tell it."""
    ids = {f"n{i:08}": folder for i, folder in enumerate(["truck", "cat", "ship"])}
    for wnid, folder in ids.items():
        (images / folder).rename(images / wnid)
    for folder in images.iterdir():
        if folder.name not in ids:
            folder.rename(tmp_path / folder.name)
    (tmp_path / name).write_text(form(ids))
    request = DataRequest(report=str(images), classes=str(tmp_path / name))
    found = atp_open_clip.atp_evaluate(clip, request, "report", ["per_class"])
    assert [metric.name for metric in found.metrics] == [f"top1/{wnid}" for wnid in sorted(ids)]
    mean = sum(metric.value for metric in found.metrics) / 3
    if name in ("names.tsv", "map.json"):
        assert mean > 70, "the words are those the model knows"
    else:
        assert mean < 70, "ids tell the model nothing"
    assert name in found.metrics[0].convention


def test_classes_beside_those_that_have_images(
    clip: LoadedModel, images: Path, tmp_path: Path
) -> None:
    """A part of a data set is classified among all its classes, as in published figures."""
    everything = sorted(folder.name for folder in images.iterdir())
    for folder in everything[2:]:
        (images / folder).rename(tmp_path / folder)
    (tmp_path / "classes.txt").write_text("\n".join(everything))
    alone = atp_open_clip.atp_evaluate(clip, DataRequest(report=str(images)), "report", ["top1"])
    request = DataRequest(report=str(images), classes=str(tmp_path / "classes.txt"))
    among = atp_open_clip.atp_evaluate(clip, request, "report", ["top1", "top5"])
    assert alone.metrics[0].n == among.metrics[0].n == len(find_images(images))
    assert alone.metrics[0].value > among.metrics[0].value
    assert "10" not in alone.metrics[0].convention and "2 classes" in alone.metrics[0].convention
