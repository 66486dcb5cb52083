"""How well one model's similarities of sentences are kept by another."""

from __future__ import annotations

import math

import torch

__all__ = ["cosine", "rank_correlation", "similarity_correlation"]

_GROUPS = 30


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosine of vectors, shape (…, width) to (…); exactly 1 of a vector with itself, 0 with 0."""
    squares = (one * one).sum(-1) * (other * other).sum(-1)
    return (one * other).sum(-1) / squares.sqrt().clamp_min(torch.finfo(one.dtype).tiny)


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's correlation of two vectors of one length; 0 where one of them ranks nothing."""
    return float(cosine(_centred_ranks(one), _centred_ranks(other)))


def similarity_correlation(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Rank correlation of the similarities of all pairs of sentences, and its standard error.

    Pairs that share a sentence depend on each other, so the error is a jackknife's over sentences:
    the correlation is computed again without each of up to 30 groups of them.

    Args:
        one: normalized embeddings, shape (sentences, width), float64.
        other: embeddings of the same sentences by another model.
    """
    count = len(one)
    pairs = torch.ones(count, count, dtype=torch.bool).triu(1)
    first, second = one @ one.T, other @ other.T
    groups = min(count, _GROUPS)
    group_of = torch.arange(count) % groups
    without = []
    for group in range(groups):
        kept = group_of != group
        left = pairs & kept[:, None] & kept
        without.append(rank_correlation(first[left], second[left]))
    mean = sum(without) / groups
    variance = (groups - 1) / groups * sum((value - mean) ** 2 for value in without)
    return rank_correlation(first[pairs], second[pairs]), math.sqrt(variance)


def _centred_ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks less their mean, equal values sharing a rank, shape as given, float64."""
    ordered = values.sort().values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    ranks = (below + up_to).double() / 2.0
    return ranks - ranks.mean()
