"""Accuracy, cross-entropy, calibration, and agreement with the dense model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import torch

from atp_core.errors import DataError, ModelError, NumericalError, UnknownNameError, UsageError
from atp_core.measuring import metric_of, spelt_out
from atp_core.records import DataRequest, Evaluation, LoadedModel, Split

from ._images import Images, batches, images_for, preprocessing
from ._input import device_of, dtype_of
from ._labels import labels_for
from ._outcome import OF_CLASS, Outcome

__all__ = ["METRICS", "evaluate"]

_BATCH: Final = 32
_LABELLED: Final = ("cross_entropy", "top1", "top5")
_COMPARED: Final = ("kl", "agreement")
_FEATURES: Final = "feature_error"
_PER_CLASS: Final = "per_class"
METRICS: Final = (*_LABELLED, *_COMPARED, _FEATURES, "ece", _PER_CLASS)
"""Every metric this plugin measures, each where the data and the model allow it."""


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Measure the model on one split; on the report split nothing, where no data is given.

    Labelled images: cross-entropy (first on the search split), top-1 (first on the report split)
    and top-5 accuracy; of a pruned model also how it compares with the dense one. Images without
    labels: the latter alone, and for the dense model its comparison with itself. A model without
    classes: the error of its features. By name only: `ece`, and `per_class`, which stands for
    `top1/CLASS` of every class folder with images.

    Raises:
        UnknownNameError: `metrics` names one that is not measured here, or not on this data.
        UsageError: `metrics` names a comparison, and the dense model was not measured.
        DataError: images are missing or unfit, or there is nothing to compare with.
        NumericalError: an output is not finite.
    """
    for name in metrics or ():
        if name not in METRICS and not name.startswith(OF_CLASS):
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
    if set(names) - {*_COMPARED, _FEATURES}:
        labels = labels_for(loaded.model, images.classes, images.name, data.classes)
        target = torch.tensor([labels.index[str(file.label)] for file in images.files])
        told = labels.told
    outputs = _outputs(loaded, images, data.batch_size, split)
    dense = _dense(loaded, images, split, outputs)
    outcome = Outcome(images, target, outputs, dense, itself=not loaded.pruned)
    names = _known(names, outcome, images, split, named=metrics is not None)
    found = {name: outcome.figure(name) for name in names}
    _, preprocessed = preprocessing(loaded.model)
    convention = ", ".join(filter(None, (preprocessed, told)))
    shared: dict[str, Any] = {
        "split": split,
        "dataset": images.name,
        "fingerprint": images.fingerprint,
        "convention": convention,
        "seconds": time.perf_counter() - began,
    }
    return Evaluation(
        [metric_of(name, figure, **shared) for name, figure in found.items()],
        images.examples,
        {name: of.observations for name, of in found.items() if of.observations is not None},
    )


def _measured(
    loaded: LoadedModel, images: Images, split: Split, asked: Sequence[str] | None
) -> list[str]:
    """Names of the metrics for this model and data, in order; those of classes are spelt out."""
    outputs = int(getattr(loaded.model, "num_classes", 0) or 0)
    of_classes: list[str] = []
    if not outputs:
        possible, usual = [_FEATURES], [_FEATURES]
    elif images.classes:
        labelled = ["cross_entropy", "top1", *(["top5"] if outputs > 5 else [])]
        if split == "report":
            labelled = [*labelled[1:], "cross_entropy"]
        usual = [*labelled, *_COMPARED] if loaded.pruned else labelled
        possible = [*labelled, *_COMPARED, "ece", _PER_CLASS]
        of_classes = [OF_CLASS + name for name in sorted({str(f.label) for f in images.files})]
    else:
        possible = usual = list(_COMPARED)
    for name in asked or ():
        if name not in possible and name not in of_classes:
            raise UnknownNameError(f"metric on {images.name}", name, possible)
    return spelt_out(asked or usual, {_PER_CLASS: of_classes})


def _known(
    names: Sequence[str],
    outcome: Outcome,
    images: Images,
    split: Split,
    *,
    named: bool,
) -> list[str]:
    """Those of `names` that can be measured; where they were asked for by name, all of them."""
    found = [name for name in names if outcome.knows(name)]
    if not found and not images.classes:
        raise DataError(
            f"the {split} split ({images.name}) has no labels, and the dense model's outputs on "
            "it are not known; give images in a folder a class"
        )
    if named and len(found) < len(names):
        missing = next(name for name in names if name not in found)
        raise UsageError(
            f"{missing} compares with the dense model, whose outputs on the {split} split "
            f"({images.name}) are not known; leave it out"
        )
    return found


def _outputs(loaded: LoadedModel, images: Images, batch_size: int, split: Split) -> torch.Tensor:
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
        loaded.dense[key] = outputs
    found: torch.Tensor | None = loaded.dense.get(key)
    if found is not None and found.shape != outputs.shape:
        loaded.progress.note(
            f"the dense model has {found.shape[1]} outputs and {loaded.source.text} "
            f"{outputs.shape[1]}, so they are not compared"
        )
        return None
    return found
