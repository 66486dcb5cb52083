"""RIA: weights that are large beside their neighbours, times the root of their inputs' norms."""

from __future__ import annotations

import torch
from atp_core.engine.statistics import ColumnNorms
from atp_core.methods import Pruned, Statistics
from atp_core.methods.rounding import total_count
from atp_core.methods.selection import keep_highest

__all__ = ["RIA"]


class RIA:
    """Cuts the weights of smallest (|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · ‖X_j‖^½.

    Source: Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large
    Language Models" (ICLR 2024), with the exponent ½ and, like the authors' repository, scores
    compared over the whole matrix: relative to their rows, they are comparable between rows.
    """

    name = "ria"
    calibrated = True

    def statistics(self, in_features: int, device: torch.device) -> ColumnNorms:
        """Sums of squares of the input features, as for Wanda."""
        return ColumnNorms(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Keep the highest scores of `weight`, shape (out_features, in_features)."""
        scores, notes = relative_importance(weight), []
        if statistics is None or not statistics.tokens:
            notes.append("no calibration token reached this weight; its inputs were not weighed")
        else:
            assert isinstance(statistics, ColumnNorms)
            # ‖X_j‖ is the root of the sum of squares, and the score takes the root of that.
            scores = scores * statistics.squares.pow(0.25)
        return Pruned(keep_highest(scores, total_count(weight.numel(), rate)), notes=notes)


def relative_importance(weight: torch.Tensor) -> torch.Tensor:
    """Each |W_ij| as a share of its column plus as a share of its row; 0 where all are 0."""
    size = weight.abs()
    smallest = torch.finfo(size.dtype).tiny  # a column of zeros has no shares
    columns, rows = size.sum(0, keepdim=True), size.sum(1, keepdim=True)
    return size / columns.clamp_min(smallest) + size / rows.clamp_min(smallest)
