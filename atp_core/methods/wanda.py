"""Wanda: weights times the norms of their inputs, compared per output row."""

from __future__ import annotations

import torch

from ..engine.statistics import ColumnNorms
from . import Pruned, Statistics
from .rounding import row_counts
from .selection import keep_highest_in_groups, keep_highest_per_row

__all__ = ["UNSEEN", "Wanda"]

UNSEEN = "no calibration token reached this weight; it was pruned by magnitude"


class Wanda:
    """Cuts the weights of smallest |W|·√(Σ x² / sequences) in each output row.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models"
    (ICLR 2024), with the scaling of its repository: the mean over sequences of the sum over tokens.
    """

    name = "wanda"
    calibrated = True
    small_statistics = True

    def statistics(self, in_features: int, device: torch.device) -> ColumnNorms:
        """Sums of squares of the input features."""
        return ColumnNorms(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Keep the highest scores of each row of `weight`, shape (out_features, in_features)."""
        counts = row_counts(weight.shape[0], weight.shape[1], rate)
        scores, notes = _scores(weight, statistics)
        return Pruned(keep_highest_per_row(scores, counts), notes=notes)

    def prune_pattern(
        self, weight: torch.Tensor, keep: int, of: int, statistics: Statistics | None
    ) -> Pruned:
        """Keep the highest scores of every group."""
        scores, notes = _scores(weight, statistics)
        return Pruned(keep_highest_in_groups(scores, keep, of), notes=notes)


def _scores(
    weight: torch.Tensor, statistics: Statistics | None
) -> tuple[torch.Tensor, list[str]]:
    scores = weight.abs()
    if statistics is None or not statistics.tokens:
        return scores, [UNSEEN]
    assert isinstance(statistics, ColumnNorms)
    return scores.mul_((statistics.squares / statistics.sequences).sqrt()), []
