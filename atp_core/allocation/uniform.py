"""Uniform sparsity: every block gets S."""

from __future__ import annotations

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest

__all__ = ["Uniform"]


class Uniform:
    """The baseline every other allocation is compared with."""

    name = "uniform"
    takes_beta = False

    def allocate(self, request: AllocationRequest) -> Schedule:
        """S for every block.

        Raises:
            UsageError: an option is given; there are none.
        """
        for option in request.options:
            raise UsageError(f"the uniform allocation has no option {option!r}")
        return Schedule(
            rates={
                chain.name: {block.name: request.sparsity[chain.name] for block in chain.blocks}
                for chain in request.chains
            },
            sparsity=request.target,
            allocation=self.name,
        )
