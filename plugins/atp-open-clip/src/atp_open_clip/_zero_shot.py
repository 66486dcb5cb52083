"""Zero-shot classification of labelled images."""

from __future__ import annotations

import open_clip
import torch
from torch.nn import functional

from atp_core.records import DataRequest, LoadedModel, Split

from ._clip import Clip
from ._data import Part, fingerprint
from ._features import Features, checked, image_features
from ._inputs import Inputs
from ._labels import Labels, labels_of
from ._measured import Figure, Measured, mean_figure, share_figure

__all__ = ["zero_shot"]

_TEXTS_AT_ONCE = 512


def zero_shot(
    loaded: LoadedModel, clip: Clip, data: DataRequest, part: Part, split: Split
) -> Measured:
    """Classify every image by the class whose texts it is most similar to.

    The classifier is built anew from the text tower as it stands, by open_clip's own
    `build_zero_shot_classifier`: for each class the normalized mean of the normalized features of
    its sentences.

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
    return Measured(
        figures=_figures(features, target, search=split == "search"),
        features=features,
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


def _figures(features: Features, target: torch.Tensor, *, search: bool) -> list[Figure]:
    losses: list[torch.Tensor] = []
    ranks: list[torch.Tensor] = []
    start = 0
    for logits in features.chunks():
        right = target[start : start + len(logits)]
        losses.append(functional.cross_entropy(logits, right, reduction="none"))
        # A tie counts against the model: where all outputs are the same, nothing is recognized.
        ranks.append((logits >= logits.gather(1, right[:, None])).sum(1) - 1)
        start += len(logits)
    rank = torch.cat(ranks)
    loss = mean_figure("cross_entropy", torch.cat(losses), "nats", higher_is_better=False)
    found = [share_figure("top1", rank < 1)]
    if len(features.texts) > 5:
        found.append(share_figure("top5", rank < 5))
    # A loss tells schedules apart where accuracy, in steps of an image, does not.
    return [loss, *found] if search else [*found, loss]
