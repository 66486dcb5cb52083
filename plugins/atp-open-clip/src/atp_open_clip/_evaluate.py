"""Measuring a CLIP model: by classes or by captions, and against the dense model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from atp_core.errors import UnknownNameError, UsageError
from atp_core.measuring import Figure, mean_figure, metric_of, share_figure, spelt_out
from atp_core.records import DataRequest, Evaluation, LoadedModel, Split

from ._clip import clip_of
from ._data import part_of
from ._features import Features
from ._measured import Measured
from ._retrieval import retrieval
from ._zero_shot import OF_CLASS, OPTIONS, zero_shot

__all__ = ["compare", "evaluate"]

_COMPARISONS = ("kl", "agreement")


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Zero-shot classification where images have classes, retrieval where they have captions.

    Search: cross-entropy or contrastive loss comes first, on images held out from calibration.
    Report: accuracy or recall comes first; nothing is measured where no report data is given.
    Once the model is pruned, `kl` and `agreement` compare it with the dense model, whose features
    of the split were kept. By name only, and for classes: `ece`, and `per_class`, which stands
    for `top1/CLASS` of every class folder with images.

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
    clip, asked = clip_of(loaded), list(metrics or ())
    if part.kind == "classes":
        measured = zero_shot(loaded, clip, data, part, split, asked)
        known = {*_COMPARISONS, *OPTIONS}
    else:
        measured = retrieval(loaded, clip, data, part, split)
        known = {*_COMPARISONS}
    found = dict(measured.figures)
    of_classes = [name for name in found if name.startswith(OF_CLASS)]
    for name in asked:
        if name not in found and name not in known:
            raise UnknownNameError("metric", name, (known | set(found)) - set(of_classes))
    found |= _compared(loaded, split, measured, metrics)
    names = spelt_out(asked or found, {"per_class": of_classes})
    shared: dict[str, Any] = {
        "split": split,
        "dataset": part.name,
        "fingerprint": measured.fingerprint,
        "convention": measured.convention,
        "seconds": time.perf_counter() - began,
    }
    return Evaluation(
        [metric_of(name, found[name], **shared) for name in names],
        part.identities,
        {name: of.observations for name, of in found.items() if of.observations and name in names},
    )


def _compared(
    loaded: LoadedModel, split: Split, measured: Measured, metrics: Sequence[str] | None
) -> dict[str, Figure]:
    """Figures against the dense model, where they are asked for, or wanted and known."""
    key = ("atp_open_clip.dense", split, measured.fingerprint)
    if not loaded.pruned:
        loaded.dense[key] = measured.features
    dense: Features | None = loaded.dense.get(key)
    asked = any(name in _COMPARISONS for name in metrics or ())
    if asked and dense is None:
        raise UsageError(
            "kl and agreement compare with the dense model, which was not measured on this data; "
            "leave them out"
        )
    if dense is None or not (asked or (loaded.pruned and metrics is None)):
        return {}
    note = "against the dense model" + ("" if loaded.pruned else ", which is this one itself")
    figures = compare(dense, measured.features, measured.images)
    return {name: replace(figure, note=note) for name, figure in figures.items()}


def compare(dense: Features, pruned: Features, images: Sequence[str]) -> dict[str, Figure]:
    """How far the probabilities of the texts for an image have moved.

    Args:
        dense: what the dense model made of the data.
        pruned: what the pruned model made of it.
        images: identity of each image.

    Returns:
        `kl`, the mean of KL(dense ‖ pruned) in nats, and `agreement`, the share of images for
        which both prefer the same text.
    """
    kls, same = [], []
    for before, after in zip(dense.chunks(), pruned.chunks(), strict=True):
        old, new = (functional.log_softmax(logits.double(), -1) for logits in (before, after))
        kls.append(functional.kl_div(new, old, reduction="none", log_target=True).sum(1))
        same.append(before.argmax(1) == after.argmax(1))
    return {
        "kl": mean_figure(torch.cat(kls), images, "nats"),
        "agreement": share_figure(torch.cat(same).tolist(), images),
    }
