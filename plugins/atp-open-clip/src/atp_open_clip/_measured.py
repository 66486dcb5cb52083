"""Figures on their way to being metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ._features import Features

__all__ = ["Figure", "Measured", "mean_figure", "share_figure"]


@dataclass(frozen=True)
class Figure:
    """A value with its standard error; see `atp_core.records.Metric`."""

    name: str
    value: float
    stderr: float | None
    n: int
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Measured:
    """What was measured on one split.

    Attributes:
        figures: the first is what a search goes by.
        features: what they were computed from, to compare models by.
        fingerprint: hash of the data.
        convention: how it was measured.
    """

    figures: Sequence[Figure]
    features: Features
    fingerprint: str
    convention: str


def mean_figure(name: str, values: torch.Tensor, unit: str, *, higher_is_better: bool) -> Figure:
    """The mean of a value for each observation, shape (n,), and its standard error."""
    count = len(values)
    wide = values.double()
    error = float(wide.std()) / math.sqrt(count) if count > 1 else None
    return Figure(name, float(wide.mean()), error, count, unit, higher_is_better)


def share_figure(name: str, right: torch.Tensor) -> Figure:
    """The share of true entries of a bool tensor, shape (n,), in %, with its binomial error."""
    count = len(right)
    share = float(right.double().mean())
    error = 100 * math.sqrt(share * (1 - share) / count)
    return Figure(name, 100 * share, error, count, "%", higher_is_better=True)
