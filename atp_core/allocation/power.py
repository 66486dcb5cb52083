"""A power of depth: the family of which ATP is the straight line."""

from __future__ import annotations

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest
from ._options import number
from ._rising import rising

__all__ = ["Power"]


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

        def offset(beta: float, i: int, steps: int) -> float:
            return beta * steps * (i / steps) ** exponent if steps else 0.0

        return rising(request, self.name, beta, offset)
