"""Measuring a CLIP model: by classes or by captions, and against the dense model."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch.nn import functional

from atp_core.errors import UnknownNameError, UsageError
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Split

from ._clip import clip_of
from ._data import part_of
from ._features import Features
from ._measured import Figure, mean_figure, share_figure
from ._retrieval import retrieval
from ._zero_shot import zero_shot

__all__ = ["compare", "evaluate"]

_COMPARISONS = ("kl", "agreement")


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Zero-shot classification where images have classes, retrieval where they have captions.

    Search: cross-entropy or contrastive loss comes first, on images held out from calibration.
    Report: accuracy or recall comes first; nothing is measured where no report data is given.
    Once the model is pruned, `kl` and `agreement` compare it with the dense model, whose features
    of the split were kept.

    Raises:
        UnknownNameError: `metrics` names one that is not measured on this data.
        UsageError: `metrics` names a comparison and the dense model was not measured.
        DataError: the data cannot be had.
        NumericalError: the model's output is not finite.
    """
    began = time.perf_counter()
    part = part_of(loaded, data, split)
    if part is None:
        return Evaluation([], frozenset())
    measure = zero_shot if part.kind == "classes" else retrieval
    measured = measure(loaded, clip_of(loaded), data, part, split)
    found = {figure.name: figure for figure in measured.figures}
    for name in metrics or ():
        if name not in found and name not in _COMPARISONS:
            raise UnknownNameError("metric", name, [*found, *_COMPARISONS])
    key = ("atp_open_clip.dense", split, measured.fingerprint)
    if not loaded.pruned:
        loaded.cache[key] = measured.features
    compared = any(name in _COMPARISONS for name in metrics or ())
    dense: Features | None = loaded.cache.get(key)
    if compared and dense is None:
        raise UsageError(
            "kl and agreement compare with the dense model, which was not measured on this data; "
            "leave them out"
        )
    if dense is not None and (loaded.pruned or compared):
        found |= {figure.name: figure for figure in compare(dense, measured.features)}
    seconds = time.perf_counter() - began

    def metric(figure: Figure) -> Metric:
        return Metric(
            name=figure.name,
            value=figure.value,
            stderr=figure.stderr,
            n=figure.n,
            unit=figure.unit,
            higher_is_better=figure.higher_is_better,
            split=split,
            dataset=part.name,
            fingerprint=measured.fingerprint,
            convention=(
                f"against the dense model; {measured.convention}"
                if figure.name in _COMPARISONS
                else measured.convention
            ),
            seconds=seconds,
        )

    return Evaluation([metric(found[name]) for name in metrics or found], part.identities)


def compare(dense: Features, pruned: Features) -> list[Figure]:
    """How far the probabilities of the texts for an image have moved.

    Args:
        dense: what the dense model made of the data.
        pruned: what the pruned model made of it.

    Returns:
        `kl`, the mean of KL(dense ‖ pruned) in nats, and `agreement`, the share of images for
        which both prefer the same text.
    """
    kls, same = [], []
    for before, after in zip(dense.chunks(), pruned.chunks(), strict=True):
        old, new = (functional.log_softmax(logits.double(), -1) for logits in (before, after))
        kls.append(functional.kl_div(new, old, reduction="none", log_target=True).sum(1))
        same.append(before.argmax(1) == after.argmax(1))
    return [
        mean_figure("kl", torch.cat(kls), "nats", higher_is_better=False),
        share_figure("agreement", torch.cat(same)),
    ]
