"""Global pruning: one threshold for all weights of a chain."""

from __future__ import annotations

import torch

from ..records import Chain, PrunableWeight, Schedule
from . import AllocationRequest
from ._by_weight import by_threshold, implied
from ._options import choice, only

__all__ = ["Global"]


class Global:
    """The rates of blocks that one threshold on all scores of a chain implies.

    Inside a block the rate is then uniform, as for every allocation here; the classic method would
    also tell the weights of a block apart.

    Options: "score" ("magnitude": |W|, or "wanda": |W|·‖X‖₂ of the dense model).
    """

    name = "global"
    takes_beta = False
    needs = frozenset({"weights", "observed"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: the option is unknown.
        """
        only(self.name, request.options, "score")
        wanda = choice(request.options, "score", "magnitude", "magnitude", "wanda") == "wanda"

        def scores(weight: PrunableWeight) -> torch.Tensor:
            found = weight.matrix().detach().to("cpu", torch.float32).abs()
            norms = request.shown.norms(weight) if wanda else None
            return found if norms is None else found * norms

        def cut(chain: Chain, sparsity: float) -> dict[str, float]:
            return by_threshold(chain, sparsity, scores)

        return implied(request, self.name, cut)
