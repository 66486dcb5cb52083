"""Accuracy, cross-entropy, and agreement with the dense model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

import torch
from torch.nn import functional

from atp_core.errors import DataError, ModelError, NumericalError, UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Split

from ._images import Images, batches, images_for, preprocessing
from ._input import device_of, dtype_of
from ._labels import labels_for

__all__ = ["METRICS", "evaluate"]

_BATCH: Final = 32
_LABELLED: Final = ("cross_entropy", "top1", "top5")
_COMPARED: Final = ("kl", "agreement")
_FEATURES: Final = "feature_error"
METRICS: Final = (*_LABELLED, *_COMPARED, _FEATURES)
"""Every metric this plugin measures, each where the data and the model allow it."""


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Measure the model on one split; on the report split nothing, where no data is given.

    Labelled images: cross-entropy (first on the search split), top-1 (first on the report split)
    and top-5 accuracy; of a pruned model also how it compares with the dense one. Images without
    labels: the latter alone, and for the dense model its comparison with itself. A model without
    classes: the error of its features.

    Raises:
        UnknownNameError: `metrics` names one that is not measured here, or not on this data.
        DataError: images are missing or unfit, or there is nothing to compare with.
        NumericalError: an output is not finite.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS)
    began = time.perf_counter()
    images = images_for(loaded, data, split)
    if images is None:
        return Evaluation([], frozenset())
    names = _measured(loaded, images, split, metrics)
    if data.classes is not None and not images.classes:
        raise DataError(
            f"--classes has no effect on {images.name}, which has no class folders; leave it out"
        )
    target, told = None, None
    if set(names) & set(_LABELLED):
        labels = labels_for(loaded.model, images.classes, images.name, data.classes)
        target = torch.tensor([labels.index[str(file.label)] for file in images.files])
        told = labels.told
    outputs = _outputs(loaded, images, data.batch_size, split)
    dense = _dense(loaded, images, split, outputs)
    values: dict[str, tuple[torch.Tensor, float]] = {}  # one value an image, and a factor
    if target is not None:
        log_p = outputs.log_softmax(-1)
        values["cross_entropy"] = (functional.nll_loss(log_p, target, reduction="none"), 1.0)
        rank = _ranks(outputs, target)
        values["top1"] = ((rank < 1).double(), 100.0)
        values["top5"] = ((rank < 5).double(), 100.0)
    if dense is not None and set(names) & {*_COMPARED}:
        values["kl"] = (_kl(dense, outputs), 1.0)
        values["agreement"] = ((dense.argmax(-1) == outputs.argmax(-1)).double(), 100.0)
    if dense is not None and _FEATURES in names:
        values[_FEATURES] = (_feature_error(dense, outputs), 1.0)
    names = [name for name in names if name in values]
    if not names:
        raise DataError(
            f"the {split} split ({images.name}) has no labels, and the dense model's outputs on "
            "it are not known; give images in a folder a class"
        )
    _, preprocessed = preprocessing(loaded.model)
    convention = ", ".join(filter(None, (preprocessed, told)))
    itself = "" if loaded.pruned else " (the model as it was loaded, so with itself)"
    seconds = time.perf_counter() - began

    def metric(name: str) -> Metric:
        observed, factor = values[name]
        return Metric(
            name=name,
            value=factor * float(observed.double().mean()),
            stderr=_stderr(observed.double(), factor),
            n=len(observed),
            unit=_UNITS[name],
            higher_is_better=name in ("top1", "top5", "agreement"),
            split=split,
            dataset=images.name,
            fingerprint=images.fingerprint,
            convention=_CONVENTIONS.get(name, "{}").format(convention)
            + (itself if name in _CONVENTIONS else ""),
            seconds=seconds,
        )

    return Evaluation([metric(name) for name in names], images.examples)


_UNITS: Final = {
    "cross_entropy": "nats an image",
    "top1": "%",
    "top5": "%",
    "kl": "nats an image",
    "agreement": "%",
    _FEATURES: "relative",
}
_CONVENTIONS: Final = {
    "kl": "KL(dense ‖ pruned), {}",
    "agreement": "same first class as the dense model, {}",
    _FEATURES: "squared error of the features over their squared norm in the dense model, {}",
}


def _measured(
    loaded: LoadedModel, images: Images, split: Split, asked: Sequence[str] | None
) -> list[str]:
    """Names of the metrics for this model and data, in order."""
    outputs = int(getattr(loaded.model, "num_classes", 0) or 0)
    if not outputs:
        possible, usual = [_FEATURES], [_FEATURES]
    elif images.classes:
        labelled = ["cross_entropy", "top1", *(["top5"] if outputs > 5 else [])]
        if split == "report":
            labelled = [*labelled[1:], "cross_entropy"]
        possible = [*labelled, *_COMPARED]
        usual = possible if loaded.pruned else labelled
    else:
        possible = usual = list(_COMPARED)
    for name in asked or ():
        if name not in possible:
            raise UnknownNameError(f"metric on {images.name}", name, possible)
    return list(asked) if asked else usual


def _outputs(
    loaded: LoadedModel, images: Images, batch_size: int, split: Split
) -> torch.Tensor:
    """The model's outputs, shape (images, classes or features), float32 on the CPU."""
    model = loaded.model
    rows: list[torch.Tensor] = []
    with (
        torch.inference_mode(),
        loaded.progress.task(f"{split} images", len(images.files)) as advance,
    ):
        for files, pixels in batches(loaded, images, max(batch_size, _BATCH)):
            found = model(pixels.to(device_of(model), dtype_of(model)))
            if not isinstance(found, torch.Tensor):
                raise ModelError(
                    f"{type(model).__name__} returns {type(found).__name__}, not one tensor an "
                    "image; only image classifiers and feature extractors are measured"
                )
            found = found.float().flatten(1).cpu()
            finite = found.isfinite().all(-1)
            if not bool(finite.all()):
                first = files[int((~finite).nonzero()[0])].path
                raise NumericalError(
                    f"the model's output for {first} is not finite; try --dtype float32, or a "
                    "lower sparsity"
                )
            rows.append(found)
            for file in files:
                advance(file.path.name)
    return torch.cat(rows)


def _dense(
    loaded: LoadedModel, images: Images, split: Split, outputs: torch.Tensor
) -> torch.Tensor | None:
    """The dense model's outputs on the same images; those at hand where the model is dense."""
    key = ("atp_timm.dense", split, images.fingerprint)
    if not loaded.pruned:
        loaded.cache[key] = outputs
    found: torch.Tensor | None = loaded.cache.get(key)
    return found


def _ranks(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How many classes score higher than the right one; of equal scores the first wins."""
    own = outputs.gather(1, target[:, None])
    place = torch.arange(outputs.shape[1])
    ahead = (outputs > own) | ((outputs == own) & (place < target[:, None]))
    return ahead.sum(-1)


def _kl(dense: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    log_p, log_q = dense.double().log_softmax(-1), pruned.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _feature_error(dense: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    norm = dense.double().pow(2).sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (pruned.double() - dense.double()).pow(2).sum(-1) / norm


def _stderr(observed: torch.Tensor, factor: float) -> float | None:
    """Of the mean; of a share it is the binomial one."""
    n = len(observed)
    if n < 2:
        return None
    if factor != 1.0:
        share = float(observed.mean())
        return factor * math.sqrt(share * (1 - share) / n)
    return float(observed.std()) / math.sqrt(n)
