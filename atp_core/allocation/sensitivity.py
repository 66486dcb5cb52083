"""ATP's line, bent by what it costs to prune each block alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from ..errors import NumericalError
from ..records import Block, Chain, Schedule
from . import AllocationRequest, Observed, ScheduleJudge
from ._options import number, only, whole
from ._scores import by_offsets, uniform_as, wanda_scores
from .budget import beta_max

__all__ = ["Sensitivity"]

_FLOOR: Final = 0.05
"""Of the median cost; what is less is too near noise to take a logarithm of."""


class _Point(NamedTuple):
    """A member of the family: slope and bend, as shares of their ranges."""

    slope: float
    bend: float


class Sensitivity:
    """Rates s_i = b + β·(i−1) − γ·z_i, with β and γ found by trials and b solved for the budget.

    z_i says how much block i costs: its score, log(loss with block i alone pruned − loss of the
    dense model), less the mean over its chain and divided by the standard deviation. The block is
    pruned to S by Wanda's scores on the dense model's norms, and the loss is the objective of a
    search on the search split; one loss a block, without calibration. Costs below 5 % of the
    median count as that.

    ATP knows where a block stands and not which block it is; blocks that do little stand anywhere.
    γ = 0 is ATP, γ = β = 0 uniform sparsity, and both are among the trials: six at first, then up
    to four in each round, which halves the steps around the best.

    It is this project's own; in its measurements it comes nearest to a Bayesian search over all
    rates (docs/results.md).

    Options: "bend" (1/3: γ of the first trials, as a share of min(S, 1 − S)), "rounds" (2).
    """

    name = "atp-sensitivity"
    takes_beta = False
    needs = frozenset({"weights", "observed", "loss"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """Uniform sparsity, where the search starts.

        Raises:
            UsageError: an option is unknown or outside its range.
        """
        self._options(request)
        return uniform_as(self.name, request)

    def trials(self, request: AllocationRequest) -> int:
        """How many schedules are tried at most."""
        _, rounds = self._options(request)
        return 6 + 4 * rounds

    def search(self, request: AllocationRequest, judge: ScheduleJudge) -> Schedule:
        """The best schedule of the family that was tried.

        Raises:
            UsageError: an option is unknown or outside its range.
            NumericalError: the loss is not finite with a block pruned.
        """
        bend, rounds = self._options(request)
        costs = {chain.name: _standardized(_costs(chain, request)) for chain in request.chains}
        judged: dict[_Point, float] = {}

        def schedule(point: _Point) -> Schedule:
            if point == _Point(0.0, 0.0):
                return self.allocate(request)  # exactly uniform, not but for rounding
            return by_offsets(
                request, self.name, lambda chain: _offsets(chain, request, point, costs)
            )

        def judge_all(points: Sequence[_Point]) -> None:
            asked = [one for one in dict.fromkeys(points) if one not in judged]
            judged.update(zip(asked, judge.all([schedule(one) for one in asked]), strict=True))

        flat = [_Point(slope, 0.0) for slope in (0.0, 0.25, 0.5)]
        judge_all([*flat, *(_Point(one.slope, bend) for one in flat)])
        step = _Point(0.125, bend / 2)
        for _ in range(rounds):
            best = min(judged, key=lambda one: judged[one])
            judge_all([*_around(best, step)])
            step = _Point(step.slope / 2, step.bend / 2)
        return schedule(min(judged, key=lambda one: judged[one]))

    def _options(self, request: AllocationRequest) -> tuple[float, int]:
        only(self.name, request.options, "bend", "rounds")
        return (
            number(request.options, "bend", 1 / 3, 0.0, 1.0),
            whole(request.options, "rounds", 2, 0),
        )


def _around(best: _Point, step: _Point) -> Sequence[_Point]:
    """The neighbours of a point, within the ranges."""
    moved = [
        best._replace(slope=best.slope - step.slope),
        best._replace(slope=best.slope + step.slope),
        best._replace(bend=best.bend - step.bend),
        best._replace(bend=best.bend + step.bend),
    ]
    return [_Point(min(max(a, 0.0), 1.0), min(max(b, 0.0), 1.0)) for a, b in moved]


def _offsets(
    chain: Chain, request: AllocationRequest, point: _Point, costs: dict[str, list[float]]
) -> list[float]:
    target = request.sparsity[chain.name]
    beta = point.slope * beta_max(target, len(chain.blocks))
    bend = point.bend * min(target, 1.0 - target)
    return [beta * i - bend * cost for i, cost in enumerate(costs[chain.name])]


def _standardized(costs: Sequence[float]) -> list[float]:
    """Logarithms of costs, with mean 0 and standard deviation 1; all 0 where there is no cost."""
    positive = [cost for cost in costs if cost > 0.0]
    if not positive:
        return [0.0] * len(costs)
    least = _FLOOR * statistics.median(positive)
    logs = [math.log(max(cost, least)) for cost in costs]
    spread = statistics.pstdev(logs)
    if not spread > 0.0:
        return [0.0] * len(costs)
    middle = statistics.fmean(logs)
    return [(log - middle) / spread for log in logs]


def _costs(chain: Chain, request: AllocationRequest) -> list[float]:
    """What the loss rises by with each block of a chain pruned alone."""
    target = request.sparsity[chain.name]
    if not 0.0 < target < 1.0:
        return [0.0] * len(chain.blocks)
    dense = request.shown.loss()
    return [_loss(block, request.shown, target) - dense for block in chain.blocks]


@torch.no_grad()
def _loss(block: Block, observed: Observed, rate: float) -> float:
    """The loss with one block pruned, whose weights are put back bit for bit."""
    before = [weight.matrix().clone() for weight in block.weights]
    masks = [_kept(scores, rate) for scores in wanda_scores(block, observed)]
    try:
        for weight, mask in zip(block.weights, masks, strict=True):
            matrix = weight.matrix()
            matrix.mul_(mask.to(matrix.device))
        loss = observed.loss()
    finally:
        for weight, one in zip(block.weights, before, strict=True):
            weight.matrix().copy_(one)
    if not math.isfinite(loss):
        raise NumericalError(
            f"the loss is {loss} with block {block.name} pruned to {rate:g}, so what it costs is "
            "not known; choose another allocation"
        )
    return loss


def _kept(scores: torch.Tensor, rate: float) -> torch.Tensor:
    """Which weights stand above the share `rate` of each row."""
    count = round(rate * scores.shape[1])
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores > scores.kthvalue(count, dim=1, keepdim=True).values
