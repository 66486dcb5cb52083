"""Choosing the lowest scores, exactly as many as asked for, without sorting everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["keep_highest", "keep_highest_in_groups", "keep_highest_per_row", "tail_kept"]

_SHORT = 16  # scores


def keep_highest_per_row(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """A mask that drops the `counts[r]` lowest scores of each row r.

    Args:
        scores: shape (rows, columns), finite.
        counts: scores to drop in each row, shape (rows,), int64; differing by at most one.

    Returns:
        True where a score is kept, shape (rows, columns). Of equal scores the first in a row are
        dropped first, as a stable sort would have it.
    """
    return _keep(scores, counts.to(scores.device))


def keep_highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """A mask that drops the `count` lowest of all scores; of equal scores the first.

    Args:
        scores: any shape, finite.
        count: scores to drop.
    """
    return _keep_count(scores.reshape(1, -1), count).view_as(scores)


def keep_highest_in_groups(scores: torch.Tensor, keep: int, of: int) -> torch.Tensor:
    """A mask that keeps the `keep` highest of every `of` consecutive scores of a row.

    Args:
        scores: shape (rows, columns), finite.
        keep: scores to keep in a group; a last one that is shorter keeps `tail_kept` of its own.
        of: scores in a group.

    Returns:
        True where a score is kept. Of equal scores the first in a group are dropped first.
    """
    rows, columns = scores.shape
    whole = columns - columns % of
    mask = torch.empty_like(scores, dtype=torch.bool)
    if whole:
        groups = scores[:, :whole].reshape(-1, of)
        kept = _ranks(groups) >= of - keep if of <= _SHORT else _keep_count(groups, of - keep)
        mask[:, :whole] = kept.reshape(rows, whole)
    if tail := columns - whole:
        mask[:, whole:] = _keep_count(scores[:, whole:], tail - tail_kept(tail, keep, of))
    return mask


def tail_kept(tail: int, keep: int, of: int) -> int:
    """What is kept of a last group that is shorter: its share, rounded, and no more than `keep`."""
    return min(round(tail * keep / of), keep)


def _ranks(groups: torch.Tensor) -> torch.Tensor:
    """The place of each score in its row, from 0 for the lowest; of equals the first is lower.

    Every pair is compared, in all rows at once: for short rows faster than a selection in each.
    """
    columns = groups.t().contiguous()
    ranks = torch.zeros(columns.shape, dtype=torch.int8, device=groups.device)
    for i in range(1, len(columns)):
        above = columns[i] >= columns[:i]
        ranks[i] = above.sum(0, dtype=torch.int8)
        ranks[:i] += ~above
    return ranks.t()


def _keep_count(scores: torch.Tensor, count: int) -> torch.Tensor:
    return _keep(scores, torch.full((scores.shape[0],), count, device=scores.device))


def _keep(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    low, high = int(counts.min()), int(counts.max())
    if high == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if low >= scores.shape[1]:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _thresholds(scores, counts, low, high)
    mask = scores > threshold
    # Fewer scores than asked for may lie below the threshold; the rest are ties with it.
    surplus = scores.shape[1] - _count(mask) - counts
    if bool(surplus.any()):
        ties = scores == threshold
        wanted = _count(ties) - surplus
        mask |= ties & (ties.cumsum(1) > wanted[:, None])
    return mask


def _thresholds(
    scores: torch.Tensor, counts: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """The `counts[r]`-th lowest score of each row r, shape (rows, 1); -inf where that is none.

    Args:
        scores: shape (rows, columns).
        counts: each `low` or `high`.
        low: `high`, or one less.
        high: 1 or more.
    """
    if scores.device.type == "cpu":
        return _thresholds_by_numpy(_array(scores), counts.numpy()[:, None], low, high)
    threshold = scores.kthvalue(high, dim=1, keepdim=True).values
    if low == high:
        return threshold
    if low == 0:
        before = torch.full_like(threshold, -torch.inf)
    else:
        before = scores.kthvalue(low, dim=1, keepdim=True).values
    return torch.where(counts[:, None] == high, threshold, before)


def _thresholds_by_numpy(
    scores: NDArray[np.floating[Any]], counts: NDArray[np.integer[Any]], low: int, high: int
) -> torch.Tensor:
    # NumPy's selection uses vector instructions: several times as fast as torch's on the CPU, but
    # only for one place at a time.
    parted = np.partition(scores, high - 1, axis=1)
    threshold = parted[:, high - 1 : high]
    if low < high:
        before = parted[:, :low].max(1, keepdims=True, initial=-np.inf)
        threshold = np.where(counts == high, threshold, before)
    return torch.from_numpy(threshold.copy())


def _count(mask: torch.Tensor) -> torch.Tensor:
    """How many are True in each row, shape (rows,)."""
    if mask.device.type != "cpu":
        return mask.sum(1)
    return torch.from_numpy(np.count_nonzero(mask.numpy(), axis=1))


def _array(scores: torch.Tensor) -> NDArray[np.floating[Any]]:
    scores = scores.detach()
    # What NumPy has no type for is widened, which keeps the order.
    wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    return cast("NDArray[np.floating[Any]]", wide.numpy())
