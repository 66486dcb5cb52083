"""Which β to try next.

The objective is U-shaped in β (Fig. 4 of the paper). So a few coarse candidates bracket the
minimum and a few more refine it; the paper's grid of step 0.002 stays available. Proposals
depend on the trials so far and nothing else: a search that is resumed from its journal asks for
exactly what an unbroken one would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import UsageError
from . import Trial

__all__ = ["Adaptive", "Grid", "Point", "Strategy", "search_beta"]


class Point(NamedTuple):
    """A β that was judged, of all chains or of one, and the objective: lower is better."""

    beta: float
    cost: float


Strategy = Callable[[Sequence[Point]], list[float]]
"""Maps the points so far to the next round of candidates; an empty round ends the search."""


class Grid:
    """Every multiple of `step` up to `limit`, 0 included (Section 3.4 of the paper, which omits 0).

    Args:
        limit: largest legal β.
        step: distance of neighbours.

    Raises:
        UsageError: the step is not positive.
    """

    def __init__(self, limit: float, step: float) -> None:
        if not (math.isfinite(step) and step > 0):
            raise UsageError(f"the step of the β grid must be positive, not {step}")
        # A hair of slack keeps the last point when limit / step is an integer but for rounding.
        self._points = [step * k for k in range(int(limit / step + 1e-9) + 1)]

    def __call__(self, judged: Sequence[Point]) -> list[float]:
        """All points that are not yet tried, in one round."""
        tried = {point.beta for point in judged}
        return [point for point in self._points if point not in tried]


class Adaptive:
    """Brackets the minimum with a few coarse candidates, then refines by parabolas.

    It ends where the parabola through the best candidate and its neighbours promises little more,
    as a trial costs more than that is worth: on curves measured on six models it takes four or five
    trials.

    Args:
        limit: largest legal β.
        resolution: neighbours closer than this are not told apart; defaults to 1/32 of the limit.
        rounds: at most this many refining trials.
        worthwhile: gain that a further trial must promise, as a share of the objective.
    """

    COARSE = (0.0, 1 / 5, 2 / 5)
    OUTER = (7 / 10, 1.0)

    def __init__(
        self,
        limit: float,
        *,
        resolution: float | None = None,
        rounds: int = 3,
        worthwhile: float = 0.005,
    ) -> None:
        self._limit = limit
        self._resolution = resolution or limit / 32
        self._rounds = rounds
        self._worthwhile = worthwhile
        self.most = len(self.COARSE) + len(self.OUTER) + rounds
        """At most this many trials."""

    def __call__(self, judged: Sequence[Point]) -> list[float]:
        """The next round of candidates."""
        if self._limit <= 0:
            return [] if judged else [0.0]
        tried = {point.beta for point in judged}
        coarse = [fraction * self._limit for fraction in self.COARSE]
        if missing := [beta for beta in coarse if beta not in tried]:
            return missing
        outer = [fraction * self._limit for fraction in self.OUTER]
        winner = _lowest(judged)
        for edge, beyond in zip((coarse[-1], outer[0]), outer, strict=True):
            if winner.beta == edge and beyond not in tried:
                return [beyond]
        refined = len(tried - set(coarse) - set(outer))
        if refined >= self._rounds:
            return []
        candidate = self._refine(judged, winner)
        return [] if candidate is None else [candidate]

    def _refine(self, judged: Sequence[Point], winner: Point) -> float | None:
        """A point between the winner and a neighbour, or None where it is not worth a trial."""
        points = sorted({point.beta: point for point in judged}.values())
        i = [point.beta for point in points].index(winner.beta)
        near = points[max(i - 1, 0) : i + 2]
        if len(near) == 3 and (vertex := _vertex([_height(point) for point in near])):
            where, gain = vertex
            if gain < self._worthwhile or abs(where - winner.beta) < self._resolution:
                return None
            if all(abs(where - point.beta) >= self._resolution for point in points):
                return where
        neighbours = [point for point in near if point is not winner]
        widest = max(neighbours, key=lambda point: abs(point.beta - winner.beta))
        if abs(widest.beta - winner.beta) < 4 * self._resolution:
            return None
        return (winner.beta + widest.beta) / 2


def _lowest(points: Sequence[Point]) -> Point:
    """The best point; of equals, the one with the smallest β."""
    return min(points, key=lambda point: (point.cost, point.beta))


def _height(point: Point) -> tuple[float, float]:
    # Perplexities span orders of magnitude; their logarithm is close to a parabola, and its
    # differences are shares. An accuracy is a negative cost.
    if point.cost > 0:
        return point.beta, math.log(point.cost)
    return point.beta, -math.log(-point.cost) if point.cost < 0 else -math.inf


def _vertex(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Where the parabola through three points is lowest, and how far below the middle one.

    None where it opens downward, or is lowest outside.
    """
    (x0, y0), (x1, y1), (x2, y2) = points
    if not all(math.isfinite(y) for y in (y0, y1, y2)):
        return None
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (right - left) / (x2 - x0)
    if bend <= 0:
        return None
    # By Newton's form: y1 + slope (x - x1) + bend (x - x1)^2
    slope = left + bend * (x1 - x0)
    shift = -slope / (2 * bend)
    where = x1 + shift
    return (where, bend * shift**2) if x0 < where < x2 else None


def search_beta(
    judge: Callable[[Sequence[float]], Sequence[Trial]],
    strategy: Strategy,
    *,
    higher_is_better: Callable[[], bool],
) -> list[Trial]:
    """Judge what `strategy` proposes until it proposes nothing.

    Args:
        judge: prunes with each β of a round and measures the objective; may answer from a journal.
        strategy: proposes candidates.
        higher_is_better: direction of the objective, asked for once there are trials.

    Returns:
        All trials in the order of the proposals.
    """
    trials: list[Trial] = []
    points: list[Point] = []
    while candidates := strategy(points):
        judged = judge(candidates)
        trials += judged
        points += [
            Point(beta, trial.cost(higher_is_better()))
            for beta, trial in zip(candidates, judged, strict=True)
        ]
    return trials
