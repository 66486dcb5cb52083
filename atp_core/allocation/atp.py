"""ATP: rates that rise from block to block by a common difference β."""

from __future__ import annotations

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest
from ._rising import rising

__all__ = ["ATP"]


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
        return rising(request, self.name, beta, lambda beta, i, steps: beta * i)
