"""DLP: blocks with a smaller share of the Wanda scores stay denser."""

from __future__ import annotations

import torch

from ..records import Block, Chain, Schedule
from . import AllocationRequest, Observed
from ._options import choice, number, only
from ._scores import by_offsets, min_max, wanda_scores

__all__ = ["DLP"]


class DLP:
    """Rates that rise with the middle of a block's Wanda scores.

    m_i is the mean of |W|·‖X‖₂ over block i, its importance 1 − m_i/Σm; the rates span 2α between
    the most and the least important block. The paper has the median for the mean; the repository,
    whose figures are the published ones, the mean.

    Source: Chen et al., "DLP: Dynamic Layerwise Pruning in Large Language Models" (ICML 2025,
    arXiv 2505.23807).

    Options: "alpha" (0.15), "center" ("mean", or "median").
    """

    name = "dlp"
    takes_beta = False
    needs = frozenset({"weights", "observed"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is unknown or outside its range.
        """
        only(self.name, request.options, "alpha", "center")
        alpha = number(request.options, "alpha", 0.15, 0.0, 0.5)
        center = choice(request.options, "center", "mean", "mean", "median")

        def offsets(chain: Chain) -> list[float]:
            middles = [_middle(block, request.shown, center) for block in chain.blocks]
            total = sum(middles)
            importance = [1.0 - middle / total if total > 0 else 0.0 for middle in middles]
            return [-2.0 * alpha * score for score in min_max(importance)]

        return by_offsets(request, self.name, offsets)


def _middle(block: Block, observed: Observed, center: str) -> float:
    if center == "median":
        every = torch.cat([scores.flatten() for scores in wanda_scores(block, observed)])
        return float(every.median())
    total = sum(float(scores.double().sum()) for scores in wanda_scores(block, observed))
    return total / block.parameters
