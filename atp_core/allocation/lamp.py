"""LAMP: one threshold for scores that are relative to what is left of a matrix."""

from __future__ import annotations

import torch

from ..records import Chain, PrunableWeight, Schedule
from . import AllocationRequest
from ._by_weight import by_threshold, implied
from ._options import only

__all__ = ["LAMP"]


class LAMP:
    """The rates of blocks that one threshold on LAMP scores implies.

    score(u) = W_u² / Σ_{v ≥ u} W_v², weights of a matrix in ascending order of magnitude.

    Source: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (ICLR 2021), and
    its repository. It has no options.
    """

    name = "lamp"
    takes_beta = False
    needs = frozenset({"weights"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is given.
        """
        only(self.name, request.options)

        def cut(chain: Chain, sparsity: float) -> dict[str, float]:
            return by_threshold(chain, sparsity, _scores)

        return implied(request, self.name, cut)


def _scores(weight: PrunableWeight) -> torch.Tensor:
    """The scores of a matrix, in ascending order of magnitude."""
    squares = weight.matrix().detach().to("cpu", torch.float64).square().flatten()
    ascending = squares.sort().values
    rest = ascending.flip(0).cumsum(0).flip(0)
    return torch.where(rest > 0, ascending / rest, torch.zeros_like(rest)).float()
