"""Allocations: how the target sparsity S is spread over the blocks of a model.

An allocator sees chains of blocks, their weights and what the dense model showed, not
architectures. Each lives in a file of its own and is offered through `atp_allocators`, exactly as
a third party's would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UsageError
from ..records import Chain, PrunableWeight, Schedule

if TYPE_CHECKING:
    import torch

__all__ = [
    "AllocationRequest",
    "Allocator",
    "Observed",
    "ScheduleJudge",
    "SearchingAllocator",
]


class Observed(Protocol):
    """What the dense model shows on calibration data, measured when first asked for."""

    def norms(self, weight: PrunableWeight) -> torch.Tensor | None:
        """L2 norm of every input feature of `weight` over all calibration tokens.

        Returns:
            Shape (in_features,), float32, on the CPU; None for an expert that no token reached.
        """

    def inputs(self, chain: Chain) -> Sequence[torch.Tensor]:
        """Some of what enters every block of `chain`: one row a token, or one a sample where
        blocks see different numbers of tokens.

        Returns:
            A tensor a block, shape (rows, features), float32, on the CPU, with equal rows.
        """

    def loss(self) -> float:
        """The objective of a search, on the search split and with the weights as they stand.

        Lower is better. Positive figures of which lower is better are given as their logarithm.
        """


@dataclass(frozen=True)
class AllocationRequest:
    """What an allocator decides on.

    Attributes:
        chains: the model's chains, blocks in execution order.
        sparsity: chain name → target average sparsity S of its prunable weights.
        options: settings of the allocator by name, e.g. {"beta": 0.01}.
        observed: what the dense model shows; None where only the architecture is known.
    """

    chains: Sequence[Chain]
    sparsity: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    observed: Observed | None = None

    @property
    def shown(self) -> Observed:
        """What the dense model shows.

        Raises:
            UsageError: only the architecture is known.
        """
        if self.observed is None:
            raise UsageError("this allocation looks at the dense model on calibration data")
        return self.observed

    @property
    def target(self) -> float:
        """Target sparsity over all chains together, weighted by parameters."""
        total = sum(chain.parameters for chain in self.chains)
        cut = sum(self.sparsity[chain.name] * chain.parameters for chain in self.chains)
        return cut / total


class Allocator(Protocol):
    """A rule that turns a target sparsity into a schedule.

    An allocator that looks at more than the sizes of blocks says so in an attribute
    `needs`, a set of "weights" (the weights themselves), "observed" (what the dense model shows)
    and "loss" (`Observed.loss`). One with an attribute `takes_beta = True` has the option "beta",
    which core searches, in the range [0, min(2S, 2(1−S))/(L−1)].
    """

    @property
    def name(self) -> str:
        """The name users write."""

    def allocate(self, request: AllocationRequest) -> Schedule:
        """A rate for every block, the parameter-weighted mean of each chain equal to its S.

        Raises:
            UsageError: an option is missing or outside its range; the message says the range.
        """


class ScheduleJudge:
    """Judges schedules for the search of an allocation: one, or several side by side.

    Args:
        judge: figures of several schedules, in their order.
    """

    def __init__(self, judge: Callable[[Sequence[Schedule]], Sequence[float]]) -> None:
        self._judge = judge

    def __call__(self, schedule: Schedule) -> float:
        """The figure of one schedule."""
        [figure] = self._judge([schedule])
        return figure

    def all(self, schedules: Sequence[Schedule]) -> Sequence[float]:
        """Those of several, in their order; the executor may judge them at the same time."""
        return self._judge(schedules)


class SearchingAllocator(Allocator, Protocol):
    """An allocation found by trials; `allocate` gives the schedule its search starts from."""

    def search(
        self, request: AllocationRequest, judge: ScheduleJudge
    ) -> Schedule:
        """Try schedules, each of which meets the budget.

        Deterministic: the same figures lead to the same schedules, so that a search that is
        resumed, whose first trials are answered from a journal, goes on as an unbroken one.

        Args:
            request: as in `allocate`.
            judge: prunes to a schedule and measures the objective on the search split, as
                `Observed.loss` gives it: lower is better, infinite if it is no number.
                ``judge.all`` takes several schedules, which an executor can judge side by side;
                what is tried must not depend on which executor that is.

        Returns:
            The best schedule that was tried.

        Raises:
            UsageError: an option is missing or outside its range; the message says the range.
        """

    def trials(self, request: AllocationRequest) -> int:
        """How many schedules `search` will try."""
