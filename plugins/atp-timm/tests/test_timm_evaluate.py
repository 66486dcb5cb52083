"""Metrics against explicit computations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import atp_timm
from atp_core.errors import DataError, NumericalError, UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel
from atp_timm._images import batches, images_for


def _values(found: Evaluation) -> dict[str, float]:
    return {metric.name: metric.value for metric in found.metrics}


def _damage(model: Any) -> None:
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[::2] = 0


def test_labelled_images(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(report=str(digits / "report"), report_samples=90)
    found = atp_timm.atp_evaluate(vit, data, "report", None)
    images = images_for(vit, data, "report")
    assert images is not None
    pixels = torch.cat([part for _, part in batches(vit, images, 32)])
    order = sorted({str(file.label) for file in images.files})
    target = torch.tensor([order.index(str(file.label)) for file in images.files])
    with torch.inference_mode():
        logits = vit.model(pixels)
    best = logits.topk(5, -1).indices
    expected = {
        "top1": 100 * (best[:, 0] == target).double().mean().item(),
        "top5": 100 * (best == target[:, None]).any(-1).double().mean().item(),
        "cross_entropy": functional.cross_entropy(logits, target).item(),
    }
    assert list(_values(found)) == ["top1", "top5", "cross_entropy"]
    assert _values(found) == pytest.approx(expected, rel=1e-5)
    top1, _, loss = found.metrics
    share = expected["top1"] / 100
    assert top1.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / 90))
    spread = functional.cross_entropy(logits, target, reduction="none").double().std().item()
    assert loss.stderr == pytest.approx(spread / math.sqrt(90), rel=1e-4)
    assert top1.n == 90 and top1.unit == "%" and top1.higher_is_better
    assert not loss.higher_is_better and "sorted order" in loss.convention
    assert found.examples == images.examples


def test_the_objective_of_a_search_is_cross_entropy(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(calibration=str(digits / "calibration"), search_samples=20)
    found = atp_timm.atp_evaluate(vit, data, "search", None)
    assert list(_values(found)) == ["cross_entropy", "top1", "top5"]
    assert {metric.split for metric in found.metrics} == {"search"}
    assert list(_values(atp_timm.atp_evaluate(vit, data, "search", ["top1"]))) == ["top1"]


def test_few_classes_have_no_top5(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], digits: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(digits / "report" / name)
    loaded = in_memory(tiny_vit(num_classes=2))
    found = atp_timm.atp_evaluate(loaded, DataRequest(report=str(tmp_path)), "report", None)
    assert list(_values(found)) == ["top1", "cross_entropy"]
    with pytest.raises(UnknownNameError, match="top5"):
        atp_timm.atp_evaluate(loaded, DataRequest(report=str(tmp_path)), "report", ["top5"])


def test_a_pruned_model_is_compared_with_the_dense_one(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(report=str(digits / "report"), report_samples=50)
    atp_timm.atp_evaluate(vit, data, "report", None)
    images = images_for(vit, data, "report")
    assert images is not None
    pixels = torch.cat([part for _, part in batches(vit, images, 32)])
    with torch.inference_mode():
        dense = vit.model(pixels)
        _damage(vit.model)
        vit.pruned = True
        pruned = vit.model(pixels)
    found = _values(atp_timm.atp_evaluate(vit, data, "report", None))
    assert list(found) == ["top1", "top5", "cross_entropy", "kl", "agreement"]
    kl = functional.kl_div(
        pruned.log_softmax(-1), dense.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert found["kl"] == pytest.approx(kl.item(), rel=1e-3) and found["kl"] > 0
    same = (dense.argmax(-1) == pruned.argmax(-1)).double().mean().item()
    assert found["agreement"] == pytest.approx(100 * same)


def test_images_without_labels(vit: LoadedModel, flat: Path) -> None:
    data = DataRequest(report=str(flat))
    dense = atp_timm.atp_evaluate(vit, data, "report", None)
    assert _values(dense) == {"kl": 0.0, "agreement": 100.0}
    assert {metric.n for metric in dense.metrics} == {40}
    assert all("with itself" in metric.convention for metric in dense.metrics)
    _damage(vit.model)
    vit.pruned = True
    pruned = _values(atp_timm.atp_evaluate(vit, data, "report", None))
    assert list(pruned) == ["kl", "agreement"] and pruned["kl"] > 0
    with pytest.raises(UnknownNameError, match="top1"):
        atp_timm.atp_evaluate(vit, data, "report", ["top1"])


def test_a_pruned_model_alone_has_nothing_to_compare_with(vit: LoadedModel, flat: Path) -> None:
    vit.pruned = True
    with pytest.raises(DataError, match="give images in a folder a class"):
        atp_timm.atp_evaluate(vit, DataRequest(report=str(flat)), "report", None)


def test_a_model_without_classes_is_judged_by_its_features(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], flat: Path
) -> None:
    loaded = in_memory(tiny_vit(num_classes=0))
    assert loaded.card["pipeline_tag"] == "image-feature-extraction"
    data = DataRequest(report=str(flat))
    assert _values(atp_timm.atp_evaluate(loaded, data, "report", None)) == {"feature_error": 0.0}
    images = images_for(loaded, data, "report")
    assert images is not None
    pixels = torch.cat([part for _, part in batches(loaded, images, 32)])
    with torch.inference_mode():
        dense = loaded.model(pixels)
        _damage(loaded.model)
        loaded.pruned = True
        pruned = loaded.model(pixels)
    expected = ((pruned - dense).pow(2).sum(-1) / dense.pow(2).sum(-1)).mean().item()
    found = _values(atp_timm.atp_evaluate(loaded, data, "report", None))
    assert found == pytest.approx({"feature_error": expected}, rel=1e-4)


def test_results_do_not_depend_on_the_batch_size(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], digits: Path
) -> None:
    found = []
    for size in (1, 33, 64):
        data = DataRequest(report=str(digits / "report"), report_samples=70, batch_size=size)
        loaded = in_memory(tiny_vit())
        found.append(_values(atp_timm.atp_evaluate(loaded, data, "report", None)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


def test_unknown_metrics_are_refused(vit: LoadedModel, digits: Path) -> None:
    data = DataRequest(report=str(digits / "report"))
    with pytest.raises(UnknownNameError, match="Did you mean 'agreement'"):
        atp_timm.atp_evaluate(vit, data, "report", ["agrement"])


def test_outputs_that_are_no_numbers_name_the_image(vit: LoadedModel, flat: Path) -> None:
    with torch.no_grad():
        vit.model.head.bias[0] = float("nan")
    with pytest.raises(NumericalError, match=r"\.png is not finite"):
        atp_timm.atp_evaluate(vit, DataRequest(report=str(flat)), "report", None)
