"""DSnoT: Wanda's mask, its weights swapped until the outputs' expected change is small."""

from __future__ import annotations

from typing import Final

import torch

from ..engine.statistics import Moments
from . import Pruned, Statistics
from .rounding import row_counts
from .selection import keep_highest_per_row
from .wanda import UNSEEN

__all__ = ["DSnoT"]

_LEAST_VARIANCE: Final = 1e-6
"""Of the mean variance of the inputs; an input that hardly varies is divided by no less."""


class DSnoT:
    """Grows and prunes one weight a row and cycle, at constant sparsity and without new values.

    A row's expected change is ε = Σ W_j·E[x_j] over what is cut. A cycle brings back the cut weight
    of highest sign(ε)·W_j·E[x_j]/Var[x_j], and cuts, of those whose loss takes ε towards 0
    (sign(ε)·W_j·E[x_j] < 0), the kept one of lowest Wanda score |W_j|·‖x_j‖₂. A row is done when
    |ε| is below the threshold, or when a swap would not make it smaller: the reference goes on
    then, up to its number of cycles, and may end with a larger ε than it began with.

    Source: Zhang et al., "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs"
    (ICLR 2024), Algorithm 1, and its repository for the constants.

    Args:
        threshold: |ε| at which a row is done, in units of the outputs.
        cycles: swaps in a row, at most.
    """

    name = "dsnot"
    calibrated = True
    small_statistics = True

    def __init__(self, threshold: float = 0.1, cycles: int = 50) -> None:
        self._threshold = threshold
        self._cycles = cycles

    def statistics(self, in_features: int, device: torch.device) -> Moments:
        """Sums and sums of squares of the input features."""
        return Moments(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Choose the weights of `weight`, shape (out_features, in_features), to keep."""
        counts = row_counts(weight.shape[0], weight.shape[1], rate)
        if statistics is None or not statistics.tokens:
            return Pruned(keep_highest_per_row(weight.abs(), counts), notes=[UNSEEN])
        assert isinstance(statistics, Moments)
        scores = weight.abs() * (statistics.squares / statistics.sequences).sqrt()
        mask = keep_highest_per_row(scores, counts)
        if int(counts.min()) > 0 and int(counts.max()) < weight.shape[1]:
            self._swap(weight, mask, scores, statistics)
        return Pruned(mask)

    def _swap(
        self, weight: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor, seen: Moments
    ) -> None:
        """Swap weights of `mask`, in place."""
        mean = seen.sums / seen.tokens
        variance = (seen.squares / seen.tokens - mean.square()).clamp_(min=0.0)
        least = _LEAST_VARIANCE * float(variance.mean())
        effect = weight * mean
        gain = effect / variance.clamp(min=least) if least > 0 else effect
        error = effect.masked_fill(mask, 0.0).sum(1)
        active = error.abs() >= self._threshold
        for _ in range(self._cycles):
            rows = active.nonzero().squeeze(1)
            if not len(rows):
                return
            sign = error[rows].sign()[:, None]
            kept = mask[rows]
            grown = (sign * gain[rows]).masked_fill_(kept, -torch.inf).argmax(1)
            helps = kept & (sign * effect[rows] < 0)
            cost, cut = scores[rows].masked_fill(~helps, torch.inf).min(1)
            moved = error[rows] - effect[rows, grown] + effect[rows, cut]
            better = torch.isfinite(cost) & (moved.abs() < error[rows].abs())
            active[rows[~better]] = False
            rows, grown, cut = rows[better], grown[better], cut[better]
            mask[rows, grown] = True
            mask[rows, cut] = False
            error[rows] = moved[better]
            active[rows] = error[rows].abs() >= self._threshold
