"""How alike the inputs of blocks are, and the best rates for linear costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import NumericalError
from ..records import Chain
from . import Observed

__all__ = ["cheapest_rates", "finite_inputs", "similarity"]

_ALIKE = 1e-9  # relative difference of costs that is no more than the rounding of sums


def finite_inputs(chain: Chain, observed: Observed) -> list[torch.Tensor]:
    """What enters every block, shape (rows, features) each.

    Raises:
        NumericalError: some of it is NaN or infinite, so that no similarity can be told.
    """
    inputs = list(observed.inputs(chain))
    for block, rows in zip(chain.blocks, inputs, strict=True):
        if not bool(rows.isfinite().all()):
            raise NumericalError(
                f"what enters block {block.name} of the dense model is not finite; load the model "
                "with --dtype float32 or bfloat16"
            )
    return inputs


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
    the budget is spent. Blocks whose costs differ by rounding alone share what is left for them
    alike, so that their order decides nothing.

    Args:
        costs: of cutting one parameter of each block, positive.
        sizes: parameters of each block.
        sparsity: S in [0, 1].
        reach: how far a rate may be from S; what leaves [0, 1] is clipped.
    """
    low, high = max(sparsity - reach, 0.0), min(sparsity + reach, 1.0)
    rates = [low] * len(sizes)
    left = (sparsity - low) * sum(sizes)
    for group in _groups(costs):
        room = (high - low) * sum(sizes[i] for i in group)
        share = min(left / room, 1.0) if room > 0 else 0.0
        for i in group:
            rates[i] = low + share * (high - low)
        left = max(left - share * room, 0.0)
    return rates


def _groups(costs: Sequence[float]) -> list[list[int]]:
    """Blocks of equal cost, the cheapest first."""
    groups: list[list[int]] = []
    for i in sorted(range(len(costs)), key=costs.__getitem__):
        if groups and costs[i] <= costs[groups[-1][0]] * (1.0 + _ALIKE):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
