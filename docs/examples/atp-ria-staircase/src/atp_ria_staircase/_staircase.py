"""Staircase: one rate for early blocks, one for those in the middle, one for late ones."""

from __future__ import annotations

import math

from atp_core.allocation import AllocationRequest
from atp_core.allocation.budget import solve_intercept
from atp_core.errors import UsageError
from atp_core.records import Schedule

__all__ = ["Staircase"]

_STEP = 0.05
_STEPS = 3


class Staircase:
    """Thirds of a chain get S - δ, S and S + δ, shifted so that the whole meets S.

    The coarsest rule that follows the theory of ATP: errors of early blocks grow on their way
    through late ones, so early blocks stay denser. Blocks are counted in order of execution; where
    their number is no multiple of three, groups differ by one block.
    """

    name = "staircase"
    takes_beta = False

    def allocate(self, request: AllocationRequest) -> Schedule:
        """A rate for every block, the mean of each chain equal to its target.

        The option "step" is δ, 0.05 by default. Near S = 0 and S = 1 it is lowered to S or 1 - S,
        beyond which a group would be cut by less than nothing, or by more than all.

        Raises:
            UsageError: an option is unknown, or the step is no number in [0, 0.5].
        """
        options = dict(request.options)
        step = options.pop("step", _STEP)
        for option in options:
            raise UsageError(f"the staircase allocation has no option {option!r}; it has 'step'")
        if not isinstance(step, int | float) or not math.isfinite(step) or not 0 <= step <= 0.5:
            raise UsageError(f"the step of a staircase must be a number in [0, 0.5], not {step!r}")
        rates: dict[str, dict[str, float]] = {}
        for chain in request.chains:
            target = request.sparsity[chain.name]
            legal = min(step, target, 1.0 - target)
            count = len(chain.blocks)
            # Groups may differ in size, so the middle one need not get S itself: the intercept is
            # what makes the mean over all parameters equal to the target.
            solved = solve_intercept(
                [block.parameters for block in chain.blocks],
                [legal * (i * _STEPS // count) for i in range(count)],
                target,
            )
            named = zip(chain.blocks, solved, strict=True)
            rates[chain.name] = {block.name: rate for block, rate in named}
        return Schedule(rates, request.target, self.name)
