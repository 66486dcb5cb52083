"""Evaluation: how well the model does on a split, beside what it did before it was pruned."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from atp_core.errors import UnknownNameError, UsageError
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Observations, Split

from ._correlation import cosine, similarity_correlation
from ._data import part_for
from ._encode import embed

__all__ = ["METRICS", "evaluate"]

METRICS = {
    "spearman": ("rank correlation", "cosine similarities of all pairs, with the dense model's"),
    "cosine": ("mean cosine", "embedding of each sentence, with the dense model's"),
}
"""Metric → unit and convention. The first is what a search optimizes unless told otherwise."""


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Compare the model with the dense one, of which both figures are 1 by definition.

    Raises:
        DataError: a file cannot be read, or there are too few sentences.
        NumericalError: an embedding is not finite.
        UnknownNameError: `metrics` names one that is not measured here.
        UsageError: the model is pruned, and the dense one was not measured before.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS)
    began = time.perf_counter()
    part = part_for(loaded, data, split)
    found = embed(loaded, part.sentences, data.batch_size)
    key = (__name__, split, part.fingerprint)
    if not loaded.pruned:
        loaded.dense[key] = found
    dense: torch.Tensor | None = loaded.dense.get(key)
    if dense is None:
        raise UsageError("a pruned model is compared with the dense one; measure that one first")
    cosines = cosine(dense, found)
    measured = {
        "spearman": similarity_correlation(dense, found),
        "cosine": (float(cosines.mean()), float(cosines.std()) / math.sqrt(len(cosines))),
    }
    seconds = time.perf_counter() - began

    def metric(name: str) -> Metric:
        (value, error), (unit, convention) = measured[name], METRICS[name]
        return Metric(
            name=name,
            value=value,
            stderr=error,
            n=len(part.sentences),
            unit=unit,
            higher_is_better=True,
            split=split,
            dataset=part.name,
            fingerprint=part.fingerprint,
            convention=convention,
            seconds=seconds,
        )

    names = list(metrics or METRICS)
    # With the figure of each sentence, core can tell how sure a difference of two models is.
    each = {"cosine": Observations(part.identities, cosines.tolist())}
    observations = {name: each[name] for name in names if name in each}
    return Evaluation([metric(name) for name in names], frozenset(part.identities), observations)
