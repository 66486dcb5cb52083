"""A power of depth: the family of which ATP is the straight line."""

from __future__ import annotations

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest
from ._options import number
from .betas import by_chain, shortest
from .budget import beta_max, solve_intercept

__all__ = ["Power"]

_TOLERANCE = 1e-12


class Power:
    """s_i = b + β·(L−1)·((i−1)/(L−1))^exponent, b solved for the budget.

    From the first block to the last the rates rise as far as those of ATP with the same β, late for
    exponents above 1 and early below; exponent 1 is ATP. It is there to test whether a straight
    line is best. β is searched as for ATP, in the same range.

    Options: "beta" (a number, or one for each chain), "exponent" (2.0).
    """

    name = "power"
    takes_beta = True

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: β is missing or outside its range, or the exponent is.
        """
        options = dict(request.options)
        beta = options.pop("beta", None)
        exponent = number(options, "exponent", 2.0, 0.01, 100.0)
        for option in options:
            if option != "exponent":
                raise UsageError(
                    f"the power allocation has no option {option!r}; it has 'beta', 'exponent'"
                )
        betas = by_chain(beta, [chain.name for chain in request.chains])
        rates = {}
        for chain in request.chains:
            target, steps = request.sparsity[chain.name], len(chain.blocks) - 1
            limit = beta_max(target, len(chain.blocks))
            own = betas[chain.name]
            if own < 0.0 or (steps and own > limit + _TOLERANCE):
                raise UsageError(
                    f"β = {own:g} lies outside [0, {limit:.6g}], its range for chain "
                    f"{chain.name!r} with {len(chain.blocks)} blocks at sparsity {target:g}"
                )
            solved = solve_intercept(
                [block.parameters for block in chain.blocks],
                [own * steps * (i / steps) ** exponent if steps else 0.0 for i in range(steps + 1)],
                target,
            )
            names = [block.name for block in chain.blocks]
            rates[chain.name] = dict(zip(names, solved, strict=True))
        return Schedule(rates, request.target, self.name, shortest(betas))
