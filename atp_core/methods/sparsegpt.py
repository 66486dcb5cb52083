"""SparseGPT: cut weights by their effect on the output, and let the others make up for it."""

from __future__ import annotations

import torch

from ..engine.statistics import Gram
from . import Pruned, Statistics
from .factorization import inverse_factor
from .rounding import check_rate, row_counts, total_count
from .selection import keep_highest, keep_highest_in_groups, keep_highest_per_row
from .wanda import UNSEEN

__all__ = ["SparseGPT"]

# Columns that are updated one by one before a matrix product carries the update further. A sweep
# that updates the whole block column by column takes about twice as long on a CPU.
_STEP = 16


class SparseGPT:
    """Prunes columns from left to right with the optimal-brain-surgeon update.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
    One-Shot" (ICML 2023), and its repository for the constants.

    Args:
        damping: share of the mean diagonal of H that is added to the diagonal.
        block_size: columns whose mask is chosen together.
        most_damping: damping at which a factorization that still fails is an error.
    """

    name = "sparsegpt"
    calibrated = True

    def __init__(
        self, damping: float = 0.01, block_size: int = 128, most_damping: float = 10.0
    ) -> None:
        self._damping = damping
        self._block_size = block_size
        self._most_damping = most_damping

    def statistics(self, in_features: int, device: torch.device) -> Gram:
        """The Gram matrix of the inputs."""
        return Gram(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Choose and update the weights of `weight`, shape (out_features, in_features).

        Raises:
            NumericalError: H cannot be factorized even with the highest damping.
            ValueError: `rate` lies outside [0, 1].
        """
        check_rate(rate)
        if rate == 0.0:
            return Pruned(torch.ones_like(weight, dtype=torch.bool))
        if rate == 1.0:
            return Pruned(torch.zeros_like(weight, dtype=torch.bool))
        if statistics is None or not statistics.tokens:
            counts = row_counts(weight.shape[0], weight.shape[1], rate)
            return Pruned(keep_highest_per_row(weight.abs(), counts), notes=[UNSEEN])
        assert isinstance(statistics, Gram)
        factor, notes = inverse_factor(statistics, self._damping, self._most_damping)
        work = weight.clone()
        work[:, statistics.matrix.diagonal() == 0] = 0.0
        mask = self._sweep(work, factor, rate)
        return Pruned(mask, work, list(notes))

    def prune_pattern(
        self, weight: torch.Tensor, keep: int, of: int, statistics: Statistics | None
    ) -> Pruned:
        """Choose the weights of a group when the sweep reaches it, and update those behind it.

        Raises:
            NumericalError: H cannot be factorized even with the highest damping.
        """
        if statistics is None or not statistics.tokens:
            return Pruned(keep_highest_in_groups(weight.abs(), keep, of), notes=[UNSEEN])
        assert isinstance(statistics, Gram)
        factor, notes = inverse_factor(statistics, self._damping, self._most_damping)
        work = weight.clone()
        work[:, statistics.matrix.diagonal() == 0] = 0.0
        mask = torch.ones_like(work, dtype=torch.bool)
        scale = factor.diagonal()
        columns = work.shape[1]
        for start in range(0, columns, of):
            stop = min(start + of, columns)
            scores = (work[:, start:stop] / scale[start:stop]).square()
            mask[:, start:stop] = keep_highest_in_groups(scores, keep, of)
            self._update(work, factor, ~mask[:, start:stop], start)
        work.masked_fill_(~mask, 0.0)
        return Pruned(mask, work, list(notes))

    def _sweep(self, work: torch.Tensor, factor: torch.Tensor, rate: float) -> torch.Tensor:
        """Prune `work` in place; returns the mask of what is kept."""
        rows, columns = work.shape
        mask = torch.ones_like(work, dtype=torch.bool)
        scale = factor.diagonal()
        done = 0
        for start in range(0, columns, self._block_size):
            stop = min(start + self._block_size, columns)
            # Counting from the left edge keeps the total exact whatever the block size.
            target = total_count(rows * stop, rate)
            block = work[:, start:stop]
            scores = (block / scale[start:stop]).square()
            keep = keep_highest(scores, target - done)
            done = target
            mask[:, start:stop] = keep
            self._update(work, factor, ~keep, start)
        work.masked_fill_(~mask, 0.0)
        return mask

    def _update(
        self, work: torch.Tensor, factor: torch.Tensor, drop: torch.Tensor, start: int
    ) -> None:
        """Carry the errors of the columns from `start`, cut where `drop` says, to the right.

        Each column reaches its own step at once, the rest of the block when the step is done and
        the columns behind the block at the end: the sums of the algorithm in another grouping.

        Args:
            work: the weights, shape (rows, columns), changed in place.
            factor: shape (columns, columns), upper triangular.
            drop: True where a weight of the block is cut, shape (rows, columns of the block).
            start: first column of the block.
        """
        stop = start + drop.shape[1]
        scale = factor.diagonal()
        errors = torch.empty_like(drop, dtype=work.dtype)
        for left in range(start, stop, _STEP):
            right = min(left + _STEP, stop)
            for j in range(left, right):
                error = torch.where(drop[:, j - start], work[:, j], 0.0).div_(scale[j])
                work[:, j:right].addr_(error, factor[j, j:right], alpha=-1.0)
                errors[:, j - start] = error
            step = errors[:, left - start : right - start]
            work[:, right:stop].addmm_(step, factor[left:right, right:stop], alpha=-1.0)
        work[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1.0)
