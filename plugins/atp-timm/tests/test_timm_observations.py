"""What metrics are made of, calibration, accuracy by class, and the dense model beside."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from observing import check_observations

import atp_timm
from atp_core.errors import DataError, UnknownNameError, UsageError
from atp_core.records import DataRequest, Evaluation, LoadedModel
from atp_timm._images import batches, images_for


@pytest.fixture
def data(digits: Path) -> DataRequest:
    """Some of the digits, for every split."""
    return DataRequest(
        calibration=str(digits / "calibration"),
        report=str(digits / "report"),
        search_samples=40,
        report_samples=73,
    )


def report(loaded: LoadedModel, data: DataRequest, metrics: list[str] | None = None) -> Evaluation:
    return atp_timm.atp_evaluate(loaded, data, "report", metrics)


def damage(loaded: LoadedModel) -> None:
    model: Any = loaded.model
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[::2] = 0
    loaded.pruned = True


def outcome(loaded: LoadedModel, data: DataRequest) -> tuple[torch.Tensor, list[str], list[str]]:
    """Logits, class folders and identities of the report's images, in order."""
    images = images_for(loaded, data, "report")
    assert images is not None
    with torch.inference_mode():
        logits = loaded.model(torch.cat([part for _, part in batches(loaded, images, 32)]))
    return logits, [str(f.label) for f in images.files], [f.identity for f in images.files]


# --- observations -------------------------------------------------------------------------------


def test_every_metric_follows_from_its_observations(vit: LoadedModel, data: DataRequest) -> None:
    alone = {"cross_entropy", "top1", "top5"}
    dense: dict[str, Evaluation] = {}
    for split in ("search", "report"):
        dense[split] = atp_timm.atp_evaluate(vit, data, split, None)
        check_observations(dense[split], alone)
    damage(vit)
    for split in ("search", "report"):
        found = atp_timm.atp_evaluate(vit, data, split, None)
        check_observations(found, {*alone, "kl", "agreement"})
        for name in found.observations:
            ids = dense[split].observations["top1"].ids
            assert list(found.observations[name].ids) == list(ids)
            assert found.observations[name].weights is None
    check_observations(report(vit, data, ["top5"]), {"top5"})


def test_an_image_is_known_by_its_content(
    vit: LoadedModel, tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel],
    data: DataRequest,
) -> None:  # fmt: skip
    found = report(vit, data).observations["top1"]
    logits, labels, identities = outcome(vit, data)
    assert list(found.ids) == identities
    order = sorted(set(labels))
    best = logits.argmax(-1).tolist()
    assert list(found.values) == [
        float(order[b] == own) for b, own in zip(best, labels, strict=True)
    ]
    other = in_memory(tiny_vit(depth=2))
    request = DataRequest(**{**vars(data), "batch_size": 50})
    assert list(report(other, request).observations["cross_entropy"].ids) == identities


def test_images_without_labels(vit: LoadedModel, flat: Path) -> None:
    data = DataRequest(report=str(flat))
    check_observations(report(vit, data), {"kl", "agreement"})
    damage(vit)
    check_observations(report(vit, data), {"kl", "agreement"})


def test_features(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], flat: Path
) -> None:
    loaded, data = in_memory(tiny_vit(num_classes=0)), DataRequest(report=str(flat))
    report(loaded, data)
    damage(loaded)
    found = report(loaded, data)
    check_observations(found, {"feature_error"})
    assert found.metrics[0].value > 0


# --- the dense model ----------------------------------------------------------------------------


def test_what_was_kept_of_another_model_can_be_handed_on(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], data: DataRequest
) -> None:
    one, other = in_memory(tiny_vit()), in_memory(tiny_vit())
    damage(other)
    report(one, DataRequest(**{**vars(data), "batch_size": 33}))
    other.dense = one.dense
    found = report(other, data)
    damage(one)
    for name in ("kl", "agreement"):
        expected = report(one, data).metric(name).value
        assert found.metric(name).value == pytest.approx(expected, rel=1e-4)


def test_a_model_of_other_classes_is_not_compared(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], flat: Path
) -> None:
    one, other = in_memory(tiny_vit()), in_memory(tiny_vit(num_classes=7))
    data = DataRequest(report=str(flat))
    report(one, data)
    other.dense, other.pruned = one.dense, True
    told: list[str] = []
    other.progress.note = told.append  # type: ignore[method-assign]
    with pytest.raises(DataError, match="the dense model's outputs on it are not known"):
        report(other, data)
    assert told == [
        "the dense model has 10 outputs and VisionTransformer 7, so they are not compared"
    ]


def test_a_comparison_that_is_asked_for_and_cannot_be_made(
    vit: LoadedModel, data: DataRequest
) -> None:
    vit.pruned = True
    assert [metric.name for metric in report(vit, data).metrics] == [
        "top1", "top5", "cross_entropy",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="kl compares with the dense model"):
        report(vit, data, ["top1", "kl"])


# --- options ------------------------------------------------------------------------------------


def test_expected_calibration_error(vit: LoadedModel, data: DataRequest) -> None:
    with torch.no_grad():
        vit.model.head.weight.mul_(60)  # so that it is sure of itself, more or less
    found = report(vit, data, ["ece"])
    logits, labels, _ = outcome(vit, data)
    order = sorted(set(labels))
    confidence, best = (t.numpy() for t in logits.double().softmax(-1).max(-1))
    right = np.array([order[b] == own for b, own in zip(best.tolist(), labels, strict=True)])
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += 100 * inside.mean() * gap
    ece = found.metric("ece")
    assert ece.value == pytest.approx(expected, rel=1e-6) and expected > 10
    assert (ece.unit, ece.n, ece.stderr, ece.higher_is_better) == ("%", 73, None, False)
    assert "15 bins" in ece.convention
    check_observations(found, ())


def test_accuracy_by_class(vit: LoadedModel, data: DataRequest) -> None:
    found = report(vit, data, ["top1", "per_class"])
    logits, labels, identities = outcome(vit, data)
    order = sorted(set(labels))
    names = ["top1", *(f"top1/{name}" for name in order)]
    assert [metric.name for metric in found.metrics] == names
    check_observations(found, names)
    hits = [order[b] == own for b, own in zip(logits.argmax(-1).tolist(), labels, strict=True)]
    for name in order:
        own = [hit for hit, label in zip(hits, labels, strict=True) if label == name]
        share, metric = sum(own) / len(own), found.metric(f"top1/{name}")
        assert metric.value == pytest.approx(100 * share)
        assert metric.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / len(own)))
        assert (metric.n, metric.unit, metric.higher_is_better) == (len(own), "%", True)
        ids = [i for i, label in zip(identities, labels, strict=True) if label == name]
        assert list(found.observations[f"top1/{name}"].ids) == ids
    assert sum(m.n * m.value for m in found.metrics[1:]) == pytest.approx(
        73 * found.metrics[0].value
    )
    assert [m.name for m in report(vit, data, ["top1/nine"]).metrics] == ["top1/nine"]
    with pytest.raises(UnknownNameError, match="'top1/ten'"):
        report(vit, data, ["top1/ten"])


def test_options_stay_out_unless_asked_for(vit: LoadedModel, data: DataRequest, flat: Path) -> None:
    assert [metric.name for metric in report(vit, data).metrics] == [
        "top1", "top5", "cross_entropy",
    ]  # fmt: skip
    for name in ("ece", "per_class"):
        with pytest.raises(UnknownNameError, match=rf"metric on .*{name}"):
            report(vit, DataRequest(report=str(flat)), [name])
