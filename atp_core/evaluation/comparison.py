"""Two models on the same documents or images: paired differences, with confidence intervals.

The standard errors of two figures say little about their difference, because both models find the
same documents hard. So the documents are resampled, and both figures computed on each resample
(the paired bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13;
Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..records import Metric, Observations

__all__ = ["LEVEL", "RESAMPLES", "Comparison", "Verdict", "compare", "compare_all"]

Verdict = Literal["better", "worse", "within noise", "not comparable"]

RESAMPLES: Final = 10_000
"""Resamples of the documents."""

LEVEL: Final = 0.95
"""Level of the confidence intervals."""

_CHUNK = 1 << 22  # indices drawn at once: 32 MiB

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A figure of one model against that of a reference.

    Attributes:
        metric: its name.
        reference: the source of the reference.
        value: of the model.
        reference_value: of the reference.
        difference: value − reference_value.
        stderr: standard error of the paired difference; None where it is not known.
        interval: confidence interval of the difference at `level`; None where it is not known.
        level: 0.95.
        n: documents or images in the pairing.
        unit: of all figures.
        verdict: "better" or "worse" where the interval excludes 0.
        text: the verdict in words, e.g. "worse by 3.1 ± 0.6 points".
    """

    metric: str
    reference: str
    value: float
    reference_value: float
    difference: float
    stderr: float | None
    interval: tuple[float, float] | None
    level: float
    n: int
    unit: str
    verdict: Verdict
    text: str


def compare_all(
    mine: Mapping[str, Metric],
    theirs: Mapping[str, Metric],
    my_observations: Mapping[str, Sequence[Observations]],
    their_observations: Mapping[str, Sequence[Observations]],
    reference: str,
    seed: int = 0,
) -> list[Comparison]:
    """Every metric that both models have, in the order of the first.

    Args:
        mine: metrics of the model.
        theirs: metrics of the reference.
        my_observations: metric → what it was made of; several where it is the mean of tasks.
        their_observations: likewise of the reference.
        reference: the source of the reference.
        seed: of the resampling.
    """
    return [
        compare(
            metric,
            theirs[name],
            my_observations.get(name, ()),
            their_observations.get(name, ()),
            reference,
            seed,
        )
        for name, metric in mine.items()
        if name in theirs
    ]


def compare(
    mine: Metric,
    theirs: Metric,
    my_observations: Sequence[Observations],
    their_observations: Sequence[Observations],
    reference: str,
    seed: int = 0,
) -> Comparison:
    """One metric of two models; arguments as those of `compare_all`."""

    def told(
        verdict: Verdict,
        text: str,
        stderr: float | None = None,
        interval: tuple[float, float] | None = None,
        n: int = 0,
    ) -> Comparison:
        return Comparison(
            metric=mine.name,
            reference=reference,
            value=mine.value,
            reference_value=theirs.value,
            difference=mine.value - theirs.value,
            stderr=stderr,
            interval=interval,
            level=LEVEL,
            n=n,
            unit=mine.unit,
            verdict=verdict,
            text=text,
        )

    if mine.fingerprint != theirs.fingerprint or mine.convention != theirs.convention:
        return told("not comparable", "measured on other data, or in another way")
    difference = mine.value - theirs.value
    if difference == 0 and my_observations and my_observations == their_observations:
        return told("within noise", "equal", 0.0, (0.0, 0.0), len(my_observations[0].ids))
    if not my_observations or len(my_observations) != len(their_observations):
        return told("not comparable", f"{_amount(difference, mine)}; no interval is known")
    pairs = [_paired(*two) for two in zip(my_observations, their_observations, strict=True)]
    if any(pair is None for pair in pairs):
        return told("not comparable", "measured on other documents")
    # Every metric is resampled alike whatever is measured beside it.
    own = zlib.crc32(mine.name.encode()) ^ seed
    drawn = np.mean([_resampled(pair, own + i) for i, pair in enumerate(pairs) if pair], axis=0)
    tail = 100 * (1 - LEVEL) / 2
    low, high = (float(x) for x in np.percentile(drawn, [tail, 100 - tail]))
    stderr = float(np.std(drawn, ddof=1))
    n = sum(len(one.ids) for one in my_observations)
    if not (math.isfinite(low) and math.isfinite(high)):
        return told("not comparable", "a figure is not finite", n=n)
    if low <= 0.0 <= high:
        text = f"within noise ({_amount(difference, mine, stderr)})"
        return told("within noise", text, stderr, (low, high), n)
    verdict: Verdict = "better" if (difference > 0) == mine.higher_is_better else "worse"
    text = f"{verdict} by {_amount(abs(difference), mine, stderr)}"
    if mine.unit not in ("%", "fraction") and theirs.value:
        text += f" ({difference / theirs.value:+.1%})"
    return told(verdict, text, stderr, (low, high), n)


@dataclass(frozen=True)
class _Pair:
    """Weighted sums of both models, a row a document: value·weight and weight of each."""

    sums: _Floats  # (documents, 4): mine, my weight, theirs, their weight
    summary: str


def _paired(mine: Observations, theirs: Observations) -> _Pair | None:
    """Both models' figures in one order; None where the documents differ."""
    if set(mine.ids) != set(theirs.ids) or mine.summary != theirs.summary or not mine.ids:
        return None
    place = {one: i for i, one in enumerate(theirs.ids)}
    order = [place[one] for one in mine.ids]
    my_weights = np.asarray(mine.weights or [1.0] * len(mine.ids), dtype=np.float64)
    weights = np.asarray(theirs.weights or [1.0] * len(theirs.ids), dtype=np.float64)[order]
    values = np.asarray(theirs.values, dtype=np.float64)[order]
    own = np.asarray(mine.values, dtype=np.float64) * my_weights
    return _Pair(np.stack([own, my_weights, values * weights, weights], 1), mine.summary)


def _resampled(pair: _Pair, seed: int) -> _Floats:
    """The difference on each resample of the documents, shape (RESAMPLES,)."""
    generator = np.random.default_rng(seed)
    count = len(pair.sums)
    step = max(1, _CHUNK // count)
    found: list[Any] = []
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        chosen = generator.integers(0, count, size=(rows, count), dtype=np.int32)
        sums = pair.sums[chosen].sum(1) if count * rows < _CHUNK // 4 else _sums(pair.sums, chosen)
        found.append(_summary(sums[:, 0] / sums[:, 1], pair.summary)
                     - _summary(sums[:, 2] / sums[:, 3], pair.summary))
    return np.concatenate(found)


def _sums(table: _Floats, chosen: NDArray[np.int32]) -> _Floats:
    """The sum of the chosen rows, without all of them in memory at once."""
    return np.stack([table[:, i][chosen].sum(1) for i in range(table.shape[1])], 1)


def _summary(means: _Floats, how: str) -> _Floats:
    if how == "exp":
        with np.errstate(over="ignore"):
            return np.exp(means)
    return 100.0 * means if how == "percent" else means


def _amount(difference: float, metric: Metric, stderr: float | None = None) -> str:
    """A difference for people: points of a share, else in the metric's unit."""
    scale, unit = {"%": (1.0, " points"), "fraction": (100.0, " points")}.get(
        metric.unit, (1.0, "")
    )
    if stderr is None:
        return f"{scale * difference:.3g}{unit}"
    places = max(0, min(6, 1 - math.floor(math.log10(scale * stderr)))) if stderr > 0 else 1
    places = min(places, 1) if unit else places
    return f"{scale * difference:.{places}f} ± {scale * stderr:.{places}f}{unit}"
