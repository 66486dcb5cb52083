"""OWL: blocks with more outliers stay denser."""

from __future__ import annotations

from ..records import Block, Chain, Schedule
from . import AllocationRequest, Observed
from ._options import number, only
from ._scores import by_offsets, min_max, wanda_scores

__all__ = ["OWL"]


class OWL:
    """Rates that fall with the share of outliers among a block's Wanda scores.

    D_i = 100·mean(A > M·mean(A)) over all weights of block i together, A = |W|·‖X‖₂; the rates span
    2λ between the largest and the smallest D. The reference shifts them to an unweighted mean of
    S; here the budget is met by parameters.

    Source: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)" (ICML 2024), and its repository,
    whose README has M = 5 and λ = 0.08.

    Options: "M" (5), "lambda" (0.08).
    """

    name = "owl"
    takes_beta = False
    needs = frozenset({"weights", "observed"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is unknown or outside its range.
        """
        only(self.name, request.options, "M", "lambda")
        multiple = number(request.options, "M", 5.0, 0.0, 1e6)
        reach = number(request.options, "lambda", 0.08, 0.0, 0.5)

        def offsets(chain: Chain) -> list[float]:
            shares = [_outliers(block, request.shown, multiple) for block in chain.blocks]
            return [-2.0 * reach * share for share in min_max(shares)]

        return by_offsets(request, self.name, offsets)


def _outliers(block: Block, observed: Observed, multiple: float) -> float:
    """Percentage of the block's scores above `multiple` times their mean."""
    total = sum(float(scores.double().sum()) for scores in wanda_scores(block, observed))
    threshold = multiple * total / block.parameters
    above = sum(int((scores > threshold).sum()) for scores in wanda_scores(block, observed))
    return 100.0 * above / block.parameters
