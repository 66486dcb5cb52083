"""Allocations: how the target sparsity S is spread over the blocks of a model.

An allocator sees chains of blocks and their sizes, not architectures. Each lives in a file of
its own and is offered through `atp_allocators`, exactly as a third party's would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..records import Chain, Schedule

__all__ = ["AllocationRequest", "Allocator"]


@dataclass(frozen=True)
class AllocationRequest:
    """What an allocator decides on.

    Attributes:
        chains: the model's chains, blocks in execution order.
        sparsity: chain name → target average sparsity S of its prunable weights.
        options: settings of the allocator by name, e.g. {"beta": 0.01}.
    """

    chains: Sequence[Chain]
    sparsity: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> float:
        """Target sparsity over all chains together, weighted by parameters."""
        total = sum(chain.parameters for chain in self.chains)
        cut = sum(self.sparsity[chain.name] * chain.parameters for chain in self.chains)
        return cut / total


class Allocator(Protocol):
    """A rule that turns a target sparsity into a schedule."""

    @property
    def name(self) -> str:
        """The name users write."""

    def allocate(self, request: AllocationRequest) -> Schedule:
        """A rate for every block, the parameter-weighted mean of each chain equal to its S.

        Raises:
            UsageError: an option is missing or outside its range; the message says the range.
        """
