"""ALS: blocks whose inputs are redundant to those of later blocks are cut more."""

from __future__ import annotations

import math

from ..records import Schedule
from . import AllocationRequest
from ._options import number, only
from ._redundancy import cheapest_rates, finite_inputs, similarity

__all__ = ["ALS"]


class ALS:
    """Rates by a linear program over the redundancy of block inputs.

    ψ_ij = ‖XiᵀXj‖²_F/(‖XiᵀXi‖_F‖XjᵀXj‖_F); ρ_i = Σ_j ψ_ij − 1; ω_i = exp(−ρ_i/μ), μ the mean of
    row i of ψ. What block i keeps is worth the mean of ω over blocks i to L; the program keeps the
    most worth under the budget, rates within `spread` of S (the paper finds keeping 30 to 70 % at
    S = 0.5 stable). The paper rounds to steps of 0.5 % and solves a second program inside blocks;
    here the rates are exact and a block is uniform inside. Worth is
    counted by parameter, so that where blocks differ in size it is not size that decides.

    Source: Li et al., "Adaptive Layer Sparsity for Large Language Models via Activation Correlation
    Assessment" (NeurIPS 2024); its repository holds no code.

    Options: "spread" (0.2).
    """

    name = "als"
    takes_beta = False
    needs = frozenset({"observed"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: the option is unknown or outside its range.
            NumericalError: what enters a block is not finite.
        """
        only(self.name, request.options, "spread")
        reach = number(request.options, "spread", 0.2, 0.0, 1.0)
        rates = {}
        for chain in request.chains:
            alike = similarity(finite_inputs(chain, request.shown), centred=False)
            weights = [math.exp(-(sum(row) - 1.0) / (sum(row) / len(row))) for row in alike]
            worth = [sum(weights[i:]) / (len(weights) - i) for i in range(len(weights))]
            solved = cheapest_rates(
                worth,
                [block.parameters for block in chain.blocks],
                request.sparsity[chain.name],
                reach,
            )
            names = [block.name for block in chain.blocks]
            rates[chain.name] = dict(zip(names, solved, strict=True))
        return Schedule(rates, request.target, self.name)
