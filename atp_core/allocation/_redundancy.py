"""How alike the inputs of blocks are, and the best rates for linear costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["cheapest_rates", "similarity"]


def similarity(inputs: Sequence[torch.Tensor], *, centred: bool) -> list[list[float]]:
    """Linear CKA of every pair of blocks: ‖XiᵀXj‖²_F / (‖XiᵀXi‖_F·‖XjᵀXj‖_F).

    Inputs that are zero are alike to nothing, themselves excepted.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019);
    without centring it is the redundancy of ALS.

    Args:
        inputs: of each block, shape (rows, features), with equal rows.
        centred: subtract the mean of every feature first.
    """
    grams = []
    for rows in inputs:
        x = rows.double()
        x = x - x.mean(0) if centred else x
        # ‖XiᵀXj‖²_F = ⟨XiXiᵀ, XjXjᵀ⟩, so that features may differ in number.
        gram = x @ x.T
        norm = float(gram.norm())
        grams.append(gram / norm if norm > 0 else torch.zeros_like(gram))
    return [
        [1.0 if i == j else min(max(float((a * b).sum()), 0.0), 1.0) for j, b in enumerate(grams)]
        for i, a in enumerate(grams)
    ]


def cheapest_rates(
    costs: Sequence[float], sizes: Sequence[int], sparsity: float, reach: float
) -> list[float]:
    """The rates within `reach` of S that minimize Σ n_i·cost_i·s_i under Σ n_i·s_i = S·Σ n_i.

    A linear program of one constraint is a knapsack: the cheapest blocks get the highest rate until
    the budget is spent. Blocks of equal cost share what is left for them alike, so that their order
    decides nothing.

    Args:
        costs: of cutting one parameter of each block.
        sizes: parameters of each block.
        sparsity: S in [0, 1].
        reach: how far a rate may be from S; what leaves [0, 1] is clipped.
    """
    low, high = max(sparsity - reach, 0.0), min(sparsity + reach, 1.0)
    rates = [low] * len(sizes)
    left = (sparsity - low) * sum(sizes)
    for cost in sorted(set(costs)):
        group = [i for i, other in enumerate(costs) if other == cost]
        room = (high - low) * sum(sizes[i] for i in group)
        share = min(left / room, 1.0) if room > 0 else 0.0
        for i in group:
            rates[i] = low + share * (high - low)
        left = max(left - share * room, 0.0)
    return rates
