"""ATP: rates that rise from block to block by a common difference β."""

from __future__ import annotations

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest
from .betas import by_chain, shortest
from .budget import beta_max, solve_intercept

__all__ = ["ATP"]

# Limits are computed from S and L; a β that was computed from them must not fail by rounding.
_TOLERANCE = 1e-12


class ATP:
    """The arithmetic progression s_i = b + β·(i − 1), one a chain.

    Source: Eq. 10 of Huang et al., "Determining Layer-wise Sparsity for Large Language Models
    Through a Theoretical Perspective" (ICML 2025), where b = S − β(L−1)/2. Here b is solved so
    that the parameter-weighted mean is S, which is the same where blocks are of equal size.
    """

    name = "atp"
    takes_beta = True

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The progression of every chain for the option "beta", a number or one for each chain.

        Raises:
            UsageError: β is missing or outside its range.
        """
        options = dict(request.options)
        beta = options.pop("beta", None)
        for option in options:
            raise UsageError(f"the atp allocation has no option {option!r}; it has 'beta'")
        betas = by_chain(beta, [chain.name for chain in request.chains])
        rates: dict[str, dict[str, float]] = {}
        for chain in request.chains:
            beta = betas[chain.name]
            target = request.sparsity[chain.name]
            limit = beta_max(target, len(chain.blocks))
            # One block alone has no progression, so any β that others can use suits it.
            if beta < 0.0 or (len(chain.blocks) > 1 and beta > limit + _TOLERANCE):
                raise UsageError(
                    f"β = {beta:g} lies outside [0, {limit:.6g}], its range for chain "
                    f"{chain.name!r} with {len(chain.blocks)} blocks at sparsity {target:g}"
                )
            solved = solve_intercept(
                [block.parameters for block in chain.blocks],
                [beta * i for i in range(len(chain.blocks))],
                target,
            )
            rates[chain.name] = {
                block.name: rate for block, rate in zip(chain.blocks, solved, strict=True)
            }
        return Schedule(rates, request.target, self.name, shortest(betas))
