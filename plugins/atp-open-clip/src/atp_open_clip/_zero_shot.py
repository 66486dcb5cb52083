"""Zero-shot classification of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import open_clip
import torch
from torch.nn import functional

from atp_core.measuring import (
    Figure,
    calibration_error,
    distinct,
    mean_figure,
    share_figure,
)
from atp_core.records import DataRequest, LoadedModel, Split

from ._clip import Clip
from ._data import Part, fingerprint
from ._features import Features, checked, image_features
from ._inputs import Inputs
from ._labels import Labels, labels_of
from ._measured import Measured

__all__ = ["OF_CLASS", "OPTIONS", "zero_shot"]

OPTIONS: Final = ("ece", "per_class")
"""Figures measured where they are asked for; the second is one for each class."""

OF_CLASS: Final = "top1/"
"""What the name of a class folder follows in the name of its figure."""

_TEXTS_AT_ONCE = 512


def zero_shot(
    loaded: LoadedModel,
    clip: Clip,
    data: DataRequest,
    part: Part,
    split: Split,
    asked: Sequence[str] = (),
) -> Measured:
    """Classify every image by the class whose texts it is most similar to.

    The classifier is built anew from the text tower as it stands, by open_clip's own
    `build_zero_shot_classifier`: for each class the normalized mean of the normalized features of
    its sentences.

    Args:
        loaded: the model.
        clip: the same, in the form this plugin works with.
        data: may name files of classes and templates.
        part: labelled images.
        split: tells the order of figures.
        asked: names of figures, of which only `OPTIONS` and those of classes matter.

    Raises:
        DataError: the classes are not known, or an image cannot be read.
        NumericalError: features are not finite.
    """
    labels = labels_of(data, part, full=split == "report")
    images = image_features(loaded, clip, data, part, "zero-shot classification")
    features = Features(images, _classifier(loaded, clip, labels), clip.scale, clip.bias)
    place = {folder: i for i, folder in enumerate(labels.names)}
    target = torch.tensor([place[str(example.image.label)] for example in part.examples])
    identities = [example.image.identity for example in part.examples]
    ids = distinct(identities)
    loss, rank = _outcome(features, target)
    # A loss tells schedules apart where accuracy, in steps of an image, does not.
    losses = {"cross_entropy": mean_figure(loss, ids, "nats")}
    figures = {"top1": share_figure((rank < 1).tolist(), ids)}
    if len(features.texts) > 5:
        figures["top5"] = share_figure((rank < 5).tolist(), ids)
    # A loss tells schedules apart where accuracy, in steps of an image, does not.
    figures = {**losses, **figures} if split == "search" else {**figures, **losses}
    if "ece" in asked:
        figures["ece"] = _calibration(features, rank < 1)
    if any(name == "per_class" or name.startswith(OF_CLASS) for name in asked):
        figures |= _of_classes(part, ids, (rank < 1).tolist())
    return Measured(
        figures=figures,
        features=features,
        images=ids,
        fingerprint=fingerprint(identities, target.tolist(), labels.sentences),
        convention=f"zero-shot, {labels.origin}, texts of a class averaged (open_clip)",
    )


def _classifier(loaded: LoadedModel, clip: Clip, labels: Labels) -> torch.Tensor:
    """Shape (classes, embedding), float32 on the CPU, rows normalized."""
    tokenized = loaded.cache.setdefault("atp_open_clip.tokens", {})

    def tokens(texts: list[str]) -> Inputs:
        # Tens of thousands of sentences are tokenized once, not once a trial.
        key = tuple(texts)
        if key not in tokenized:
            tokenized[key] = clip.tokens(texts)
        return tokenized[key]  # type: ignore[no-any-return]

    with torch.inference_mode():
        found = open_clip.build_zero_shot_classifier(
            clip,
            tokens,
            list(labels.names.values()),
            list(labels.templates),
            num_classes_per_batch=max(1, _TEXTS_AT_ONCE // len(labels.templates)),
            device=clip.device,
        )
    return checked(found.T.float().cpu(), "class", list(labels.names.values()))


def _outcome(features: Features, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each image its cross-entropy and how many classes come before its own: (images,) each."""
    losses: list[torch.Tensor] = []
    ranks: list[torch.Tensor] = []
    start = 0
    for logits in features.chunks():
        right = target[start : start + len(logits)]
        losses.append(functional.cross_entropy(logits, right, reduction="none"))
        # A tie counts against the model: where all outputs are the same, nothing is recognized.
        ranks.append((logits >= logits.gather(1, right[:, None])).sum(1) - 1)
        start += len(logits)
    return torch.cat(losses), torch.cat(ranks)


def _calibration(features: Features, right: torch.Tensor) -> Figure:
    """Expected calibration error of the first class, in %."""
    confidences = [logits.double().softmax(1).amax(1) for logits in features.chunks()]
    error = 100 * calibration_error(torch.cat(confidences).tolist(), right.tolist())
    note = "probability of the first class in 15 bins of equal width"
    return Figure(error, None, len(right), "%", note=note)


def _of_classes(part: Part, ids: Sequence[str], right: Sequence[bool]) -> dict[str, Figure]:
    """The share of images that are recognized, for each class folder."""
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(part.examples):
        rows.setdefault(str(example.image.label), []).append(row)
    note = "images of this class folder"
    return {
        OF_CLASS + name: share_figure([right[i] for i in of], [ids[i] for i in of], note)
        for name, of in sorted(rows.items())
    }
