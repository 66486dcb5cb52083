"""Images of each split, class folders, and what is said of data that is not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

import atp_timm
from atp_core.data import find_images, open_image
from atp_core.digits import CLASSES
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadedModel
from atp_timm._images import images_for
from atp_timm._labels import labels_for


@pytest.fixture
def few(digits: Path, tmp_path: Path) -> Path:
    """Four images of each digit."""
    for name in CLASSES:
        target = tmp_path / "few" / name
        target.mkdir(parents=True)
        for file in sorted((digits / "calibration" / name).iterdir())[:4]:
            shutil.copyfile(file, target / file.name)
    return tmp_path / "few"


# --- splits ------------------------------------------------------------------------------------


def test_one_source_is_cut_three_ways(vit: LoadedModel, digits: Path) -> None:
    folder = str(digits / "calibration")
    data = DataRequest(calibration=folder, report=folder)
    parts = [images_for(vit, data, split) for split in ("calibration", "search", "report")]
    assert all(part is not None for part in parts)
    examples = [part.examples for part in parts if part is not None]
    assert not (examples[0] & examples[1] or examples[1] & examples[2] or examples[0] & examples[2])
    assert len(examples[2]) == pytest.approx(0.3 * 397, abs=1)


def test_two_sources_are_cut_two_ways(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(calibration=str(digits / "calibration"), report=str(digits / "report"))
    search, report = (images_for(vit, data, split) for split in ("search", "report"))
    assert search is not None and report is not None
    assert len(report.files) == len(report.examples) == 400
    assert len(search.files) == pytest.approx(0.35 * 397, abs=1)
    assert len(images_for(vit, data, "calibration").files) == 128  # type: ignore[union-attr]


def test_samples_are_drawn_from_all_classes(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(calibration=str(digits / "calibration"), samples=20)
    images = images_for(vit, data, "calibration")
    assert images is not None
    assert sorted(str(file.label) for file in images.files) == sorted(2 * CLASSES)


def test_calibration_batches(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(calibration=str(digits / "calibration"), samples=20)
    found = atp_timm.atp_calibrate(vit, data)
    assert found.batch_samples == [8, 8, 4] and found.samples == 20
    assert "16×16 px" in found.unit
    with torch.inference_mode():
        assert found.forward(found.batches[0]).shape == (8, 10)
    transform = timm.data.create_transform(
        **timm.data.resolve_input_data_config(vit.model), is_training=False
    )
    images = images_for(vit, data, "calibration")
    assert images is not None
    first: Any = transform(open_image(images.files[0].path))
    assert torch.equal(found.batches[0][0], first), "preprocessed as timm does, not augmented"
    larger = atp_timm.atp_calibrate(vit, DataRequest(**{**vars(data), "batch_size": 16}))
    assert larger.batch_samples == [16, 4]
    assert larger.fingerprint == found.fingerprint


def test_pixels_are_read_once(
    vit: LoadedModel, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataRequest(calibration=str(digits / "calibration"), search_samples=16)
    first = atp_timm.atp_evaluate(vit, data, "search", None)
    monkeypatch.setattr("atp_timm._images.open_image", None)
    second = atp_timm.atp_evaluate(vit, data, "search", None)
    assert [m.value for m in first.metrics] == [m.value for m in second.metrics]


def test_a_model_of_one_channel_gets_grey_images(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], digits: Path
) -> None:
    loaded = in_memory(tiny_vit(in_chans=1))
    data = DataRequest(calibration=str(digits / "calibration"), samples=8)
    assert atp_timm.atp_calibrate(loaded, data).batches[0].shape == (8, 1, 16, 16)
    with pytest.raises(DataError, match="4 channels"):
        atp_timm.atp_calibrate(in_memory(tiny_vit(in_chans=4)), data)


def test_pixels_take_the_dtype_of_the_model(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], digits: Path
) -> None:
    loaded = in_memory(tiny_vit().bfloat16())
    found = atp_timm.atp_calibrate(
        loaded, DataRequest(calibration=str(digits / "calibration"), samples=8)
    )
    with torch.inference_mode():
        assert found.forward(found.batches[0]).dtype == torch.bfloat16


# --- class folders -----------------------------------------------------------------------------


def test_sorted_order_where_nothing_else_is_known(tiny_vit: Callable[..., Any]) -> None:
    found = labels_for(tiny_vit(), sorted(CLASSES), "digits", None)
    assert found.index["eight"] == 0 and found.index["zero"] == 9
    assert "sorted order" in found.told


def test_label_names_of_the_model_come_first(tiny_vit: Callable[..., Any]) -> None:
    model = tiny_vit(pretrained_cfg_overlay={"label_names": CLASSES})
    found = labels_for(model, ["two", "nine"], "digits", None)
    assert found.index == {"two": 2, "nine": 9}


def test_a_class_file_comes_before_all(tiny_vit: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("".join(f"{name}\tthe digit {name}\n" for name in reversed(CLASSES)))
    model = tiny_vit(pretrained_cfg_overlay={"label_names": CLASSES})
    assert labels_for(model, ["zero", "nine"], "digits", str(file)).index == {"zero": 9, "nine": 0}
    with pytest.raises(DataError, match=r"'ten' that .* does not name"):
        labels_for(model, ["ten"], "digits", str(file))
    file.write_text("zero\none\n")
    with pytest.raises(DataError, match="names 2 classes and the model has 10 outputs"):
        labels_for(model, ["zero"], "digits", str(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "n2\nn0\nn1\n"),
        ("names.tsv", "n2\tgreat white shark\nn0\ttench\nn1\tgoldfish\n"),
        ("names.json", '["n2", "n0", "n1"]'),
        ("map.json", '{"n2": "great white shark", "n0": "tench", "n1": "goldfish"}'),
    ],
)
def test_class_files_come_in_several_forms(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], digits: Path,
    tmp_path: Path, name: str, content: str,
) -> None:  # fmt: skip
    """The order of the classes is that of the model's outputs, whatever the form."""
    (tmp_path / name).write_text(content)
    for i, digit in enumerate(("zero", "one", "two")):
        shutil.copytree(digits / "report" / digit, tmp_path / "images" / f"n{i}")
    model = tiny_vit(num_classes=3)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))  # always the last output: n1
    loaded = in_memory(model)
    data = DataRequest(report=str(tmp_path / "images"), classes=str(tmp_path / name))
    found = atp_timm.atp_evaluate(loaded, data, "report", ["per_class"])
    values = {metric.name: metric.value for metric in found.metrics}
    assert values == {"top1/n0": 0.0, "top1/n1": 100.0, "top1/n2": 0.0}
    assert f"classes of {name}" in found.metrics[0].convention


def test_wordnet_ids(tiny_vit: Callable[..., Any]) -> None:
    names = timm.data.ImageNetInfo("imagenet-1k").label_names()
    model = tiny_vit(num_classes=1000)
    found = labels_for(model, [names[7], names[0]], "images", None)
    assert found.index == {names[7]: 7, names[0]: 0}
    assert "imagenet-1k" in found.told
    with pytest.raises(DataError, match=r"do not match.*1000 classes; give --classes"):
        labels_for(model, [names[7], "cat"], "images", None)


def test_another_number_of_folders_is_refused(
    vit: LoadedModel, digits: Path, tmp_path: Path
) -> None:
    shutil.copytree(digits / "report", tmp_path / "nine")
    shutil.rmtree(tmp_path / "nine" / "four")
    data = DataRequest(report=str(tmp_path / "nine"))
    with pytest.raises(DataError, match=r"the 9 class folders of .* do not match .* 10 classes"):
        atp_timm.atp_evaluate(vit, data, "report", None)


def test_classes_without_class_folders_are_refused(
    vit: LoadedModel, digits: Path, tmp_path: Path
) -> None:
    data = DataRequest(report=str(digits / "report" / "one"), classes=str(tmp_path / "classes.txt"))
    with pytest.raises(DataError, match="--classes has no effect on one"):
        atp_timm.atp_evaluate(vit, data, "report", None)


# --- data that is not fit ----------------------------------------------------------------------


def test_no_calibration_data(vit: LoadedModel) -> None:
    with pytest.raises(DataError, match="give --calibration DIR"):
        atp_timm.atp_calibrate(vit, DataRequest())


def test_no_report_data_measures_nothing(vit: LoadedModel) -> None:
    found = atp_timm.atp_evaluate(vit, DataRequest(), "report", None)
    assert not found.metrics and not found.examples


def test_more_samples_than_there_are(vit: LoadedModel, few: Path) -> None:
    with pytest.raises(DataError, match=r"has 26 images, fewer than the 100.*--samples"):
        atp_timm.atp_calibrate(vit, DataRequest(calibration=str(few), samples=100))
    with pytest.raises(DataError, match="--search-samples"):
        atp_timm.atp_evaluate(
            vit, DataRequest(calibration=str(few), search_samples=100), "search", None
        )


def test_too_few_to_hold_a_part_out(vit: LoadedModel, few: Path) -> None:
    one = find_images(few)[0].path
    with pytest.raises(DataError, match="has 1 images, too few to hold out a search part"):
        atp_timm.atp_evaluate(vit, DataRequest(calibration=str(one)), "search", None)


def _spoil_text(file: Path) -> None:
    file.write_text("this is no image")


def _spoil_empty(file: Path) -> None:
    file.write_bytes(b"")


def _spoil_truncated(file: Path) -> None:
    Image.effect_noise((64, 64), 90).save(file)
    file.write_bytes(file.read_bytes()[:600])


@pytest.mark.parametrize("spoil", [_spoil_text, _spoil_empty, _spoil_truncated])
def test_a_bad_image_is_named(
    vit: LoadedModel, few: Path, spoil: Callable[[Path], None]
) -> None:
    file = few / "three" / "bad.png"
    spoil(file)
    # Every image of the folder is read: as report data nothing is held out.
    with pytest.raises(DataError, match=r"three.bad\.png.*replace or remove it"):
        atp_timm.atp_evaluate(vit, DataRequest(report=str(few)), "report", None)


def test_another_file_among_the_images_is_named(vit: LoadedModel, few: Path) -> None:
    (few / "three" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt is not an image"):
        atp_timm.atp_calibrate(vit, DataRequest(calibration=str(few)))


def test_an_empty_class_folder_is_named(vit: LoadedModel, few: Path) -> None:
    for file in (few / "three").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"class folder .*three holds no images"):
        atp_timm.atp_calibrate(vit, DataRequest(calibration=str(few)))
