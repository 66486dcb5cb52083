"""Choosing the lowest scores, exactly as many as asked for, without sorting everything."""

from __future__ import annotations

import torch

__all__ = ["keep_highest", "keep_highest_in_groups", "keep_highest_per_row", "tail_kept"]


def keep_highest_per_row(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """A mask that drops the `counts[r]` lowest scores of each row r.

    Args:
        scores: shape (rows, columns), finite.
        counts: scores to drop in each row, shape (rows,), int64; differing by at most one.

    Returns:
        True where a score is kept, shape (rows, columns). Of equal scores the first in a row are
        dropped first, as a stable sort would have it.
    """
    counts = counts.to(scores.device)
    low, high = int(counts.min()), int(counts.max())
    if high == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if low == high:
        return _keep(scores, low)
    mask = torch.empty_like(scores, dtype=torch.bool)
    for count in (low, high):
        rows = (counts == count).nonzero().squeeze(1)
        mask[rows] = _keep(scores[rows], count)
    return mask


def keep_highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """A mask that drops the `count` lowest of all scores; of equal scores the first.

    Args:
        scores: any shape, finite.
        count: scores to drop.
    """
    return _keep(scores.reshape(1, -1), count).view_as(scores)


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
        mask[:, :whole] = _keep(groups, of - keep).view(rows, whole)
    if tail := columns - whole:
        mask[:, whole:] = _keep(scores[:, whole:], tail - tail_kept(tail, keep, of))
    return mask


def tail_kept(tail: int, keep: int, of: int) -> int:
    """What is kept of a last group that is shorter: its share, rounded, and no more than `keep`."""
    return min(round(tail * keep / of), keep)


def _keep(scores: torch.Tensor, count: int) -> torch.Tensor:
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if count >= scores.shape[1]:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count, dim=1, keepdim=True).values
    mask = scores > threshold
    # Fewer than `count` scores may lie below the threshold; the rest are ties with it.
    surplus = (~mask).sum(1, keepdim=True) - count
    if bool(surplus.any()):
        ties = scores == threshold
        wanted = ties.sum(1, keepdim=True) - surplus
        mask |= ties & (ties.cumsum(1) > wanted)
    return mask
