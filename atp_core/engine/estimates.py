"""β from measured errors, without trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..allocation.budget import beta_max, solve_intercept

if TYPE_CHECKING:
    from .diagnosis import BlockErrors

__all__ = ["predicted_error", "recursion_beta"]

_POINTS = 400
"""β's at which the predicted error is looked at; it is a sum of as many exponentials as blocks."""


def recursion_beta(
    blocks: Sequence[BlockErrors], sizes: Sequence[int], sparsity: float, delta: float
) -> float:
    """The β that makes the predicted error of the last block smallest.

    The closed form ln(c)/a takes one growth c, one slope a and one A for all blocks. Measured, they
    differ from block to block, and A rises with depth. So the recursion of Theorem 3.5,
    L_{i+1} = c_{i+1}·L_i + A_{i+1}·exp(a_{i+1}·(s_{i+1} − S)), is followed with each block's own
    figures, for every β of the legal range.

    Args:
        blocks: the errors of a chain's blocks under uniform sparsity, in order.
        sizes: prunable weights of each block.
        sparsity: S of the chain.
        delta: half the distance of the rates at which `lower` and `upper` were measured.

    Returns:
        β in [0, min(2S, 2(1−S))/(L−1)].
    """
    limit = beta_max(sparsity, len(blocks))
    candidates = [limit * k / _POINTS for k in range(_POINTS + 1)]
    return min(
        candidates, key=lambda beta: predicted_error(blocks, sizes, sparsity, delta, beta)
    )


def predicted_error(
    blocks: Sequence[BlockErrors],
    sizes: Sequence[int],
    sparsity: float,
    delta: float,
    beta: float,
) -> float:
    """The squared error of the last block under β, by the recursion of `recursion_beta`.

    A block whose errors are zero or do not grow with its rate adds its error as measured.
    """
    rates = solve_intercept(sizes, [beta * i for i in range(len(blocks))], sparsity)
    growths = [
        max(after.total - after.fresh, 0.0) / before.total if before.total > 0 else 0.0
        for before, after in pairwise(blocks)
    ]
    error = 0.0
    for block, rate, growth in zip(blocks, rates, [0.0, *growths], strict=True):
        slope = 0.0
        if block.lower > 0 and block.upper > block.lower:
            slope = math.log(block.upper / block.lower) / (2 * delta)
        error = growth * error + block.fresh * math.exp(slope * (rate - sparsity))
    return error
