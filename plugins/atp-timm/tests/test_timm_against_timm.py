"""Accuracy as timm's own validation script measures it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import atp_timm
from atp_core.data import find_images
from atp_core.errors import ModelError
from atp_core.records import DataRequest, LoadRequest, Source

# timm's data sets leave their files to be closed when they are forgotten.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def validated(model: Any, folder: Path, class_map: Path | None = None) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in %, the way of timm's ``validate.py``.

    Args:
        model: of timm.
        folder: a folder of images a class.
        class_map: class folders in the order of the model's outputs; sorted order if None.
    """
    config = timm.data.resolve_data_config({}, model=model)
    mapped = {} if class_map is None else {"class_map": str(class_map)}
    dataset = timm.data.create_dataset("", root=str(folder), **mapped)
    loader = timm.data.create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=16,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        num_workers=0,
    )
    top1, top5 = timm.utils.AverageMeter(), timm.utils.AverageMeter()
    model.eval()
    with torch.inference_mode():
        for pixels, target in loader:
            first, fifth = timm.utils.accuracy(model(pixels), target, topk=(1, 5))
            top1.update(first.item(), len(pixels))
            top5.update(fifth.item(), len(pixels))
    assert top1.count == len(dataset)
    return top1.avg, top5.avg


def test_the_vit_of_cifar10(cifar_vit: Path, shared: Callable[[str], Path], tmp_path: Path) -> None:
    for folder in sorted(shared("data/cifar10-jpeg/test").iterdir()):
        (tmp_path / folder.name).mkdir()
        for file in sorted(folder.iterdir())[:50]:
            (tmp_path / folder.name / file.name).symlink_to(file)
    loaded = atp_timm.atp_load(Source(str(cifar_vit)), LoadRequest())
    found = atp_timm.atp_evaluate(loaded, DataRequest(report=str(tmp_path)), "report", None)
    model = timm.create_model(f"local-dir:{cifar_vit}", pretrained=True)
    # timm names images by path; two with one content count once here.
    assert found.metric("top1").n == len({image.identity for image in find_images(tmp_path)}) == 500
    values = found.metric("top1").value, found.metric("top5").value
    assert values == pytest.approx(validated(model, tmp_path), abs=1e-4)
    assert 60 < values[0] < 90 and values[1] > 95


@pytest.mark.slow
def test_efficientnet_on_a_part_of_imagenet(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """100 of the 1000 class folders: the outputs they stand for are found by their WordNet ids."""
    images = tmp_path / "images"
    images.mkdir()
    for folder in sorted(shared("data/imagenet-sample-1k").glob("n*"))[::10]:
        (images / folder.name).symlink_to(folder)
    try:
        loaded = atp_timm.atp_load(Source("embedded:efficientnet-lite0"), LoadRequest())
    except ModelError as missing:
        pytest.skip(str(missing))
    found = atp_timm.atp_evaluate(loaded, DataRequest(report=str(images)), "report", None)
    synsets = tmp_path / "synsets.txt"
    synsets.write_text("\n".join(timm.data.ImageNetInfo("imagenet-1k").label_names()))
    top1, top5 = found.metric("top1"), found.metric("top5")
    assert top1.n == 100
    assert (top1.value, top5.value) == pytest.approx(
        validated(loaded.model, images, synsets), abs=1e-4
    )
    assert 75 < top1.value < 100 and "WordNet id (imagenet-1k)" in top1.convention
