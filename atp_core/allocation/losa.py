"""LoSA: blocks whose inputs are like those of others are cut a little more."""

from __future__ import annotations

import math

from ..records import Schedule
from . import AllocationRequest
from ._options import number, only
from ._redundancy import cheapest_rates, finite_inputs, similarity

__all__ = ["LoSA"]


class LoSA:
    """Rates by the CKA of block inputs, within a narrow band around S.

    The importance of a block is exp(−r), r the row sum of centred linear CKA over the sum of all
    rows; rates minimize Σ s_i·importance_i at mean S within δ of S. The reference solves this
    linear program numerically and raises S in steps during training; here it is solved exactly,
    at once. Its δ is 0.01 up to S = 0.5, 0.02 up to 0.6 and 0.03 up to 0.7; above it has none, and
    0.03 is taken. Importance and mean are weighted by parameters, which is the reference's program
    where blocks are of equal size.

    Source: Huang et al., "Dynamic Low-Rank Sparse Adaptation" (LoSA, ICLR 2025), and its
    repository.

    Options: "delta" (by S).
    """

    name = "losa"
    takes_beta = False
    needs = frozenset({"observed"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: the option is unknown or outside its range.
            NumericalError: what enters a block is not finite.
        """
        only(self.name, request.options, "delta")
        rates = {}
        for chain in request.chains:
            target = request.sparsity[chain.name]
            usual = 0.01 if target <= 0.5 else 0.02 if target <= 0.6 else 0.03
            delta = number(request.options, "delta", usual, 0.0, 1.0)
            alike = similarity(finite_inputs(chain, request.shown), centred=True)
            sums = [sum(row) for row in alike]
            solved = cheapest_rates(
                [math.exp(-one / sum(sums)) for one in sums],
                [block.parameters for block in chain.blocks],
                target,
                delta,
            )
            names = [block.name for block in chain.blocks]
            rates[chain.name] = dict(zip(names, solved, strict=True))
        return Schedule(rates, request.target, self.name)
