"""What plugins that measure share: figures, what they are made of, and how they become metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .records import Metric, Observations, Split

if TYPE_CHECKING:
    import torch

__all__ = [
    "Figure",
    "calibration_error",
    "distinct",
    "mean_figure",
    "metric_of",
    "ratio",
    "share_figure",
    "spelt_out",
]


@dataclass(frozen=True)
class Figure:
    """A value on its way to being a metric; fields as those of `atp_core.records.Metric`.

    Attributes:
        observations: what it was made of, where it is a mean of independent observations.
        note: what its convention says of this figure alone.
    """

    value: float
    stderr: float | None
    n: int
    unit: str
    higher_is_better: bool = False
    observations: Observations | None = None
    note: str = ""


def metric_of(
    name: str,
    figure: Figure,
    *,
    split: Split,
    dataset: str,
    fingerprint: str,
    convention: str,
    seconds: float,
) -> Metric:
    """A figure with what holds for all that was measured along with it."""
    return Metric(
        name=name,
        value=figure.value,
        stderr=figure.stderr,
        n=figure.n,
        unit=figure.unit,
        higher_is_better=figure.higher_is_better,
        split=split,
        dataset=dataset,
        fingerprint=fingerprint,
        convention="; ".join(filter(None, [figure.note, convention])),
        seconds=seconds,
    )


def mean_figure(values: torch.Tensor, ids: Sequence[str], unit: str, note: str = "") -> Figure:
    """The mean of a loss or an error, of which less is better, with its standard error.

    Args:
        values: of each observation, shape (n,).
        ids: identity of each.
        unit: of the values.
        note: as in `Figure`.
    """
    wide, n = values.double(), len(values)
    stderr = float(wide.std()) / math.sqrt(n) if n > 1 else None
    made_of = Observations(ids, wide.tolist())
    return Figure(float(wide.mean()), stderr, n, unit, observations=made_of, note=note)


def share_figure(hits: Sequence[bool], ids: Sequence[str] | None, note: str = "") -> Figure:
    """The share of hits in %, of which more is better, with its binomial standard error.

    Args:
        hits: of each observation; at least one.
        ids: identity of each; None where it depends on the model which observations these are.
        note: as in `Figure`.
    """
    n = len(hits)
    share = sum(hits) / n
    stderr = 100 * math.sqrt(share * (1 - share) / n) if n > 1 else None
    made_of = None
    if ids is not None:
        made_of = Observations(ids, [float(hit) for hit in hits], summary="percent")
    return Figure(100 * share, stderr, n, "%", True, made_of, note)


def distinct(identities: Iterable[str]) -> list[str]:
    """Identities as they are, but for one that occurs again: "a", "b", "a" → "a", "b", "a#2"."""
    seen: Counter[str] = Counter()
    found = []
    for one in identities:
        seen[one] += 1
        found.append(one if seen[one] == 1 else f"{one}#{seen[one]}")
    return found


def spelt_out(names: Iterable[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of metrics, each once, with the members of a group in the place of its name.

    Args:
        names: as asked for.
        groups: name of a group → names of its metrics, e.g. "per_class" → "top1/cat", …
    """
    found = (one for name in names for one in groups.get(name, (name,)))
    return list(dict.fromkeys(found))


def ratio(sums: Sequence[float], weights: Sequence[float]) -> tuple[float, float | None]:
    """Σ sums / Σ weights over independent observations, e.g. nats and tokens of documents.

    Args:
        sums: of each observation.
        weights: how much each observation holds; not all 0.

    Returns:
        The ratio, and its standard error to first order (Cochran, "Sampling Techniques", 1977,
        eq. 6.13, without its correction for a finite population); None of a single observation.
    """
    n, total = len(sums), sum(weights)
    mean = sum(sums) / total
    if n < 2:
        return mean, None
    squares = sum((one - mean * weight) ** 2 for one, weight in zip(sums, weights, strict=True))
    return mean, math.sqrt(squares * n / (n - 1)) / total


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error, in [0, 1] (Guo et al., ICML 2017, eq. 3).

    Predictions are sorted by confidence into bins (0, 1/M], (1/M, 2/M], …, and the gaps between
    mean confidence and accuracy in each bin are averaged, weighted by its predictions.

    Args:
        confidences: probability of each predicted class.
        right: whether each prediction is right.
        bins: M.
    """
    said, hits = [0.0] * bins, [0] * bins
    for confidence, hit in zip(confidences, right, strict=True):
        # A probability summed in floating point may be a last bit above 1.
        place = min(max(math.ceil(confidence * bins) - 1, 0), bins - 1)
        said[place] += confidence
        hits[place] += hit
    gaps = (abs(one - count) for one, count in zip(said, hits, strict=True))
    return sum(gaps) / len(confidences)
