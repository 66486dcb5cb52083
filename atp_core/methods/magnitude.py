"""Magnitude pruning: cut the smallest weights of each matrix."""

from __future__ import annotations

import torch

from . import Pruned, Statistics
from .rounding import total_count
from .selection import keep_highest, keep_highest_in_groups

__all__ = ["Magnitude"]


class Magnitude:
    """Cuts the weights of smallest |W|, compared over the whole matrix; needs no data.

    Source: the magnitude baseline of the Wanda repository (one threshold a matrix).
    """

    name = "magnitude"
    calibrated = False

    def statistics(self, in_features: int, device: torch.device) -> None:
        """None: weights alone decide."""

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Keep the largest magnitudes of `weight`, shape (out_features, in_features)."""
        return Pruned(keep_highest(weight.abs(), total_count(weight.numel(), rate)))

    def prune_pattern(
        self, weight: torch.Tensor, keep: int, of: int, statistics: Statistics | None
    ) -> Pruned:
        """Keep the largest magnitudes of every group."""
        return Pruned(keep_highest_in_groups(weight.abs(), keep, of))
