"""What figures are made of, calibration, accuracy by class, and the dense model beside."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from observing import check_observations
from PIL import Image

import atp_open_clip
from atp_core.data import digest_of
from atp_core.errors import UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel, LoadRequest, Source

RECALLS = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


def evaluate(loaded: LoadedModel, split: Any = "report", **request: Any) -> Evaluation:
    metrics = request.pop("metrics", None)
    return atp_open_clip.atp_evaluate(loaded, DataRequest(**request), split, metrics)


def damage(loaded: LoadedModel) -> None:
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "c_fc" in name or "fc1" in name:
                parameter[::2] = 0
    loaded.pruned = True


# --- observations -------------------------------------------------------------------------------


def test_zero_shot_figures_follow_from_their_observations(
    loaded: LoadedModel, colours: Path
) -> None:
    request = {"calibration": str(colours), "report": str(colours), "search_samples": 7}
    alone = {"top1", "cross_entropy"}
    dense = {split: evaluate(loaded, split, **request) for split in ("search", "report")}
    for found in dense.values():
        check_observations(found, alone)
    damage(loaded)
    for split, before in dense.items():
        found = evaluate(loaded, split, **request)
        check_observations(found, {*alone, "kl", "agreement"})
        for made_of in found.observations.values():
            assert list(made_of.ids) == list(before.observations["top1"].ids)
    check_observations(evaluate(loaded, **request, metrics=["agreement"]), {"agreement"})


def test_retrieval_figures_follow_from_their_observations(loaded: LoadedModel, pairs: Path) -> None:
    found = evaluate(loaded, report=str(pairs))
    check_observations(found, {*RECALLS, "contrastive_loss"})
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    texts = {
        text
        for line in lines
        for texts in [line.get("text", line.get("caption"))]
        for text in ([texts] if isinstance(texts, str) else texts)
    }
    by_text = found.observations["text_to_image_recall@5"]
    assert set(by_text.ids) == {digest_of(text.encode()) for text in texts}
    by_image = found.observations["image_to_text_recall@5"]
    assert set(by_image.ids) == found.examples
    damage(loaded)
    again = evaluate(loaded, report=str(pairs))
    check_observations(again, {*RECALLS, "contrastive_loss", "kl", "agreement"})
    assert list(again.observations["kl"].ids) == list(by_image.ids)
    assert list(again.observations["text_to_image_recall@5"].ids) == list(by_text.ids)


def test_an_image_that_occurs_twice_has_two_identities(loaded: LoadedModel, colours: Path) -> None:
    shutil.copy(colours / "red" / "00.png", colours / "red" / "copy.png")
    found = evaluate(loaded, report=str(colours))
    check_observations(found, {"top1", "cross_entropy"})
    assert found.metrics[0].n == 37 and len(found.examples) == 36


def test_identities_do_not_depend_on_the_model(
    loaded: LoadedModel, colours: Path, tiny_transformers: Callable[[str], Any],
    tiny_processor: Callable[[str], Any],
) -> None:  # fmt: skip
    source = Source("tiny", tiny_transformers("siglip"), tiny_processor("siglip"))
    other = atp_open_clip.atp_load(source, LoadRequest())
    one = evaluate(loaded, report=str(colours))
    two = evaluate(other, report=str(colours), batch_size=50)
    assert list(one.observations["top1"].ids) == list(two.observations["top1"].ids)
    # What was kept of one is what the other is compared with.
    other.dense, other.pruned = loaded.dense, True
    found = evaluate(other, report=str(colours))
    assert found.metric("kl").value > 0
    assert found.metric("kl").convention.startswith("against the dense model; ")


def test_a_comparison_with_itself_says_so(loaded: LoadedModel, colours: Path) -> None:
    kl = evaluate(loaded, report=str(colours), metrics=["kl"]).metrics[0]
    assert kl.value == 0 and "which is this one itself" in kl.convention


# --- options ------------------------------------------------------------------------------------


def probabilities(loaded: LoadedModel, colours: Path) -> tuple[torch.Tensor, list[int]]:
    """Of the three colours, for each image by folder; and the right one of each."""
    model: Any = loaded.model
    place = f"local-dir:{loaded.source.text}"
    _, _, preprocess = open_clip.create_model_and_transforms(place)
    tokenizer = open_clip.get_tokenizer(place)
    rows, target = [], []
    with torch.inference_mode():
        means = []
        for name in ("deep blue", "green", "red"):
            texts = [name, *(f"{a} {name}." for a in ("a photo of a", "a picture of a"))]
            mean = model.encode_text(
                tokenizer([*texts, f"an image of a {name}."]), normalize=True
            ).mean(0)
            means.append(mean / mean.norm())
        for i, folder in enumerate(("deep_blue", "green", "red")):
            for file in sorted((colours / folder).iterdir()):
                pixels = preprocess(Image.open(file).convert("RGB")).unsqueeze(0)
                feature = model.encode_image(pixels, normalize=True)[0]
                logits = model.logit_scale.exp() * torch.stack(means) @ feature
                rows.append(logits.double().softmax(0))
                target.append(i)
    return torch.stack(rows), target


def test_expected_calibration_error(loaded: LoadedModel, colours: Path) -> None:
    with torch.no_grad():
        loaded.model.logit_scale.fill_(3.5)  # type: ignore[union-attr, operator]
    found = evaluate(loaded, report=str(colours), metrics=["ece", "top1"])
    p, target = probabilities(loaded, colours)
    confidence, best = p.max(1)
    right = (best == torch.tensor(target)).double()
    expected = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        expected += 100 * abs(float((right - confidence)[inside].sum())) / 36
    ece = found.metric("ece")
    assert ece.value == pytest.approx(expected, rel=1e-4) and expected > 1
    assert (ece.unit, ece.n, ece.stderr, ece.higher_is_better) == ("%", 36, None, False)
    assert "15 bins" in ece.convention
    check_observations(found, {"top1"})


def test_accuracy_by_class(loaded: LoadedModel, colours: Path) -> None:
    found = evaluate(loaded, report=str(colours), metrics=["per_class"])
    names = ["top1/deep_blue", "top1/green", "top1/red"]
    assert [metric.name for metric in found.metrics] == names
    check_observations(found, names)
    p, target = probabilities(loaded, colours)
    right = (p.argmax(1) == torch.tensor(target)).double().view(3, 12).mean(1).tolist()
    for share, metric in zip(right, found.metrics, strict=True):
        assert metric.value == pytest.approx(100 * share)
        assert metric.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / 12))
        assert (metric.n, metric.unit, metric.higher_is_better) == (12, "%", True)
    one = evaluate(loaded, report=str(colours), metrics=["top1/red", "top1"])
    assert [metric.name for metric in one.metrics] == ["top1/red", "top1"]
    with pytest.raises(UnknownNameError, match=r"'top1/violet'.*Available: agreement, cross_"):
        evaluate(loaded, report=str(colours), metrics=["top1/violet"])


def test_options_stay_out_unless_asked_for(loaded: LoadedModel, colours: Path, pairs: Path) -> None:
    found = evaluate(loaded, report=str(colours))
    assert [metric.name for metric in found.metrics] == ["top1", "cross_entropy"]
    for name in ("ece", "per_class"):
        with pytest.raises(UnknownNameError, match=name):
            evaluate(loaded, report=str(pairs), metrics=[name])
