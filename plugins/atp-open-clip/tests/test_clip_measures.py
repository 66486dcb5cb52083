"""Figures against the same figures computed the slow way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

import atp_open_clip
from atp_core.errors import DataError, NumericalError, UnknownNameError, UsageError
from atp_core.records import DataRequest, Evaluation, LoadedModel, LoadRequest, Source
from atp_open_clip._data import part_of
from atp_open_clip._evaluate import compare
from atp_open_clip._features import Features
from atp_open_clip._labels import labels_of
from atp_open_clip._retrieval import contrastive_losses, recalls


def evaluate(loaded: LoadedModel, split: Any = "report", **request: Any) -> Evaluation:
    metrics = request.pop("metrics", None)
    return atp_open_clip.atp_evaluate(loaded, DataRequest(**request), split, metrics)


def values(evaluation: Evaluation) -> dict[str, float]:
    return {metric.name: metric.value for metric in evaluation.metrics}


def test_zero_shot_equals_an_explicit_computation(
    loaded: LoadedModel, colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "templates.txt").write_text("a {} thing\nthe colour {}\n")
    (tmp_path / "classes.txt").write_text("green\tgrass green\nred\tred\ndeep_blue\tnavy\n")
    found = evaluate(
        loaded,
        report=str(colours),
        classes=str(tmp_path / "classes.txt"),
        templates=str(tmp_path / "templates.txt"),
    )
    model: Any = loaded.model
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{loaded.source.text}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{loaded.source.text}")
    names = {"green": "grass green", "red": "red", "deep_blue": "navy"}
    right, losses = 0, []
    with torch.inference_mode():
        means = []
        for name in names.values():
            texts = tokenizer([f"a {name} thing", f"the colour {name}"])
            mean = model.encode_text(texts, normalize=True).mean(0)
            means.append(mean / mean.norm())
        for target, folder in enumerate(names):
            for file in sorted((colours / folder).iterdir()):
                image = preprocess(Image.open(file).convert("RGB")).unsqueeze(0)
                feature = model.encode_image(image, normalize=True)[0]
                logits = model.logit_scale.exp() * torch.stack([feature @ m for m in means])
                right += int(logits.argmax()) == target
                losses.append(-float(logits.log_softmax(0)[target]))
    metric = found.metrics[0]
    assert [m.name for m in found.metrics] == ["top1", "cross_entropy"]
    assert metric.value == pytest.approx(100 * right / 36)
    p = right / 36
    assert metric.stderr == pytest.approx(100 * math.sqrt(p * (1 - p) / 36))
    assert (metric.n, metric.unit, metric.higher_is_better) == (36, "%", True)
    assert found.metrics[1].value == pytest.approx(sum(losses) / 36, rel=1e-5)
    assert "classes.txt" in metric.convention and "2 templates" in metric.convention
    assert len(found.examples) == 36


def test_batch_size_does_not_matter(loaded: LoadedModel, colours: Path) -> None:
    small, large = (
        evaluate(loaded, report=str(colours), batch_size=size).metric("cross_entropy").value
        for size in (1, 50)
    )
    assert small == pytest.approx(large, rel=1e-5)


def test_the_search_split_goes_by_the_loss_and_is_held_out(
    loaded: LoadedModel, colours: Path
) -> None:
    request = {"calibration": str(colours), "report": str(colours), "samples": 8}
    search = evaluate(loaded, "search", **request)
    report = evaluate(loaded, "report", **request)
    calibration = atp_open_clip.atp_calibrate(loaded, DataRequest(**request))
    assert search.metrics[0].name == "cross_entropy"
    assert report.metrics[0].name == "top1"
    sets = [search.examples, report.examples, calibration.examples]
    assert sum(map(len, sets)) == len(frozenset().union(*sets))
    assert all(sets) and calibration.samples == 8


def test_top5_from_six_classes_on(loaded: LoadedModel, tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / "many" / f"class {i}").mkdir(parents=True)
        for j in range(2):
            image = Image.new("RGB", (16, 16), (30 * i, 255 - 30 * i, 10 * j))
            image.save(tmp_path / "many" / f"class {i}" / f"{j}.png")
    found = values(evaluate(loaded, report=str(tmp_path / "many")))
    assert found["top5"] >= found["top1"]


def test_images_are_read_once(
    loaded: LoadedModel, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = values(evaluate(loaded, report=str(colours)))
    monkeypatch.setattr("atp_open_clip._features.open_image", None)
    with torch.no_grad():
        loaded.model.visual.proj.mul_(-1)  # type: ignore[union-attr, operator]
    second = values(evaluate(loaded, report=str(colours)))
    assert first != second, "it is the images that are kept, not what the model makes of them"


def test_the_text_tower_is_measured_as_it_stands(loaded: LoadedModel, colours: Path) -> None:
    first = values(evaluate(loaded, report=str(colours)))
    with torch.no_grad():
        loaded.model.text_projection.mul_(-1)  # type: ignore[operator]
    assert values(evaluate(loaded, report=str(colours))) != first


def test_comparison_with_the_dense_model(loaded: LoadedModel, colours: Path) -> None:
    dense = evaluate(loaded, report=str(colours))
    assert not {"kl", "agreement"} & values(dense).keys()
    loaded.pruned = True
    same = values(evaluate(loaded, report=str(colours)))
    assert same["kl"] == pytest.approx(0, abs=1e-9) and same["agreement"] == 100
    with torch.no_grad():
        loaded.model.visual.proj.mul_(-1)  # type: ignore[union-attr, operator]
    found = evaluate(loaded, report=str(colours))
    assert found.metric("kl").value > 0.01
    assert not found.metric("kl").higher_is_better
    assert found.metric("agreement").unit == "%"
    assert "dense model" in found.metric("kl").convention
    assert found.metrics[0].name == "top1"


def test_comparing_by_name(loaded: LoadedModel, colours: Path) -> None:
    asked = evaluate(loaded, report=str(colours), metrics=["agreement", "top1"])
    assert [metric.name for metric in asked.metrics] == ["agreement", "top1"]
    loaded.dense.clear()
    loaded.pruned = True
    assert "kl" not in values(evaluate(loaded, report=str(colours)))
    with pytest.raises(UsageError, match=r"was not measured"):
        evaluate(loaded, report=str(colours), metrics=["kl"])
    with pytest.raises(UnknownNameError, match=r"top1"):
        evaluate(loaded, report=str(colours), metrics=["top_1"])


def test_kl_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    images, other, texts = (
        torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)
        for count in (5, 5, 4)
    )
    dense, pruned = Features(images, texts, 3.0, -1.0), Features(other, texts, 3.0, -1.0)
    expected, same = 0.0, 0
    for i in range(5):
        p = (3 * images[i] @ texts.T - 1).double().softmax(0)
        q = (3 * other[i] @ texts.T - 1).double().softmax(0)
        expected += float((p * (p / q).log()).sum()) / 5
        same += int(p.argmax() == q.argmax())
    kl, agreement = compare(dense, pruned, ["a", "b", "c", "d", "e"]).values()
    assert kl.value == pytest.approx(expected, rel=1e-5)
    assert agreement.value == pytest.approx(100 * same / 5)


def test_recalls_equal_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.nn.functional.normalize(torch.randn(13, 6, generator=generator), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(30, 6, generator=generator), dim=1)
    # Text 0 belongs to two images, image 3 has one text, the others two or three.
    owned = [[2 * i + 1, 2 * i + 2] for i in range(13)]
    owned[0].append(0)
    owned[1].append(0)
    owned[3] = [7]
    owners = {t: [i for i in range(13) if t in owned[i]] for t in range(30)}
    texts_used = sorted({t for one in owned for t in one})
    places = {t: n for n, t in enumerate(texts_used)}
    features = Features(images, texts[texts_used], 10.0, 0.0)
    places_of = [[places[t] for t in one] for one in owned]
    names = [f"image {i}" for i in range(13)], [f"text {t}" for t in texts_used]
    found = recalls(features, places_of, *names)
    for k in (1, 5, 10):
        hits = 0
        for i in range(13):
            ranked = sorted(texts_used, key=lambda t: -float(images[i] @ texts[t]))
            hits += any(t in owned[i] for t in ranked[:k])
        assert found[f"image_to_text_recall@{k}"].value == pytest.approx(100 * hits / 13)
        hits = 0
        for t in texts_used:
            ranked = sorted(range(13), key=lambda i: -float(images[i] @ texts[t]))
            hits += any(i in owners[t] for i in ranked[:k])
        expected = 100 * hits / len(texts_used)
        assert found[f"text_to_image_recall@{k}"].value == pytest.approx(expected)
    assert found["text_to_image_recall@1"].n == len(texts_used)


def test_contrastive_loss_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(2)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(count, 6, generator=generator), dim=1)
        for count in (150, 149)
    )
    text_of = torch.arange(150).clamp(max=148)  # the last two images share a text
    losses, size = contrastive_losses(Features(images, texts, 5.0, 0.0), text_of)
    assert size == 75
    rows = 5 * images[:75] @ texts[:75].T
    own = torch.arange(75)
    expected = [
        torch.nn.functional.cross_entropy(side, own, reduction="none") for side in (rows, rows.T)
    ]
    assert torch.allclose(losses[:75], (expected[0] + expected[1]) / 2, atol=1e-5)
    logits = 5 * images[75:] @ texts[text_of[75:]].T
    both = logits.softmax(1)[74, 73:].sum(), logits.softmax(0)[73:, 74].sum()
    assert float(losses[149]) == pytest.approx(
        -(float(both[0].log()) + float(both[1].log())) / 2, rel=1e-4
    )


def test_pairs_are_measured_by_retrieval(loaded: LoadedModel, pairs: Path) -> None:
    report = evaluate(loaded, report=str(pairs))
    assert report.metrics[0].name == "image_to_text_recall@1"
    assert report.metrics[-1].name == "contrastive_loss"
    assert len(report.examples) == 20
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    texts = {t for line in lines for t in _listed(line.get("text", line.get("caption")))}
    assert report.metric("text_to_image_recall@5").n == len(texts)
    search = evaluate(loaded, "search", calibration=str(pairs))
    assert search.metrics[0].name == "contrastive_loss"
    assert 0 < len(search.examples) < 20
    loaded.pruned = True
    assert values(evaluate(loaded, report=str(pairs)))["agreement"] == 100


def _listed(found: Any) -> list[str]:
    return [found] if isinstance(found, str) else found


def test_without_report_data_nothing_is_measured(loaded: LoadedModel, colours: Path) -> None:
    found = evaluate(loaded, calibration=str(colours))
    assert (list(found.metrics), found.examples) == ([], frozenset())


def test_report_samples_are_drawn_evenly_from_the_classes(
    loaded: LoadedModel, colours: Path
) -> None:
    found = evaluate(loaded, report=str(colours), report_samples=6)
    assert found.metrics[0].n == 6
    again = evaluate(loaded, report=str(colours), report_samples=6)
    assert found.examples == again.examples
    other = evaluate(loaded, report=str(colours), report_samples=6, seed=1)
    assert found.examples != other.examples


def test_features_that_are_not_finite_are_told(loaded: LoadedModel, colours: Path) -> None:
    with torch.no_grad():
        loaded.model.visual.proj.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(NumericalError, match=r"features of image .*png are not finite"):
        evaluate(loaded, report=str(colours))


def test_models_of_transformers_are_measured(
    tiny_transformers: Callable[[str], Any], tiny_processor: Callable[[str], Any], colours: Path
) -> None:
    for kind in ("clip", "siglip"):
        model, processor = tiny_transformers(kind), tiny_processor(kind)
        loaded = atp_open_clip.atp_load(Source("tiny", model, processor), LoadRequest())
        found = evaluate(loaded, report=str(colours))
        losses = []
        names = ["deep blue", "green", "red"]
        sentences = ["{}", "a photo of a {}.", "a picture of a {}.", "an image of a {}."]
        with torch.inference_mode():
            for target, folder in enumerate(["deep_blue", "green", "red"]):
                for file in sorted((colours / folder).iterdir()):
                    inputs = processor(
                        images=[Image.open(file).convert("RGB")],
                        text=[s.format(name) for name in names for s in sentences],
                        padding="max_length", max_length=10, return_tensors="pt",
                    )  # fmt: skip
                    out = model(**inputs)
                    words = out.text_embeds.unflatten(0, (3, 4)).mean(1)
                    words = words / words.norm(dim=1, keepdim=True)
                    bias = getattr(model, "logit_bias", torch.zeros(()))
                    logits = model.logit_scale.exp() * out.image_embeds @ words.T + bias
                    losses.append(-float(logits.log_softmax(1)[0, target]))
        assert found.metric("cross_entropy").value == pytest.approx(
            sum(losses) / len(losses), rel=1e-4
        )


def test_imagenets_folders_have_names(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet"
    for i, wnid in enumerate(("n01440764", "n03000684", "n15075141")):
        (folder / wnid).mkdir(parents=True)
        Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(folder / wnid / "a.png")
    request = DataRequest(report=str(folder))
    part = part_of(loaded, request, "report")
    assert part is not None
    labels = labels_of(request, part, full=True)
    assert list(labels.names.values()) == ["tench", "chainsaw", "toilet paper"]
    assert len(labels.templates) == 80
    assert len(labels_of(request, part, full=False).templates) == 7
    (folder / "n15075141").rename(folder / "n99999999")
    loaded.cache.clear()
    with pytest.raises(DataError, match=r"1 of 3 are not among ImageNet's 1,000, e.g. n99999999"):
        evaluate(loaded, report=str(folder))


def test_a_model_of_mixed_precision_is_measured(directory: Path, colours: Path) -> None:
    """As open_clip makes them: matrices in bfloat16, embeddings and normalization in float32."""
    model = open_clip.create_model(f"local-dir:{directory}", precision="bf16")
    assert len({parameter.dtype for parameter in model.parameters()}) == 2
    loaded = atp_open_clip.atp_load(Source("mixed", model=model), LoadRequest())
    mixed = evaluate(loaded, report=str(colours)).metric("cross_entropy").value
    whole = atp_open_clip.atp_load(Source(str(directory)), LoadRequest())
    exact = evaluate(whole, report=str(colours)).metric("cross_entropy").value
    assert mixed == pytest.approx(exact, rel=0.05)
