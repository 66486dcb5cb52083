"""DSA's published function: the variance of the logarithms of the Wanda scores."""

from __future__ import annotations

import math

import torch

from ..records import Block, Chain, Schedule
from . import AllocationRequest, Observed
from ._options import number, only
from ._scores import by_offsets, min_max, wanda_scores

__all__ = ["DSA"]


class DSA:
    """Rates by the function that DSA's evolution found for language models.

    v_i = asin(atan(var(ln A))) over the scores A = |W|·‖X‖₂ of block i above 0; stretched to
    [0, 1], turned (1 − v), and mapped as OWL maps its outliers, with λ = 0.08. Where atan gives
    more than 1 there is no arcsine; the published code scores such a block 0, and so does this.

    Source: Li et al., "Discovering Sparsity Allocation for Layer-wise Pruning of Large Language
    Models" (NeurIPS 2024), and its repository.

    Options: "lambda" (0.08).
    """

    name = "dsa"
    takes_beta = False
    needs = frozenset({"weights", "observed"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: the option is unknown or outside its range.
        """
        only(self.name, request.options, "lambda")
        reach = number(request.options, "lambda", 0.08, 0.0, 0.5)

        def offsets(chain: Chain) -> list[float]:
            found = min_max([_value(block, request.shown) for block in chain.blocks])
            return [-2.0 * reach * (1.0 - value) for value in found]

        return by_offsets(request, self.name, offsets)


def _value(block: Block, observed: Observed) -> float:
    """asin(atan(variance)), the variance from sums in one pass over the block's weights."""
    count, total, squares = 0, 0.0, 0.0
    for scores in wanda_scores(block, observed):
        logs = torch.log(scores[scores > 0].double())
        count += logs.numel()
        total += float(logs.sum())
        squares += float(logs.square().sum())
    if count < 2:
        return 0.0
    variance = max(squares - total * total / count, 0.0) / (count - 1)
    inner = math.atan(variance)
    return math.asin(inner) if inner <= 1.0 else 0.0
