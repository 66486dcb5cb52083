"""Which β to try next.

The objective is U-shaped in β (Fig. 4 of the paper). So a few coarse candidates bracket the
minimum and a few more refine it; the paper's grid of step 0.002 stays available. Proposals
depend on the trials so far and nothing else: a search that is resumed from its journal asks for
exactly what an unbroken one would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import UsageError
from . import Executor, Trial, best

__all__ = ["Adaptive", "Grid", "Strategy", "search_beta"]

Strategy = Callable[[Sequence[Trial]], list[float]]
"""Maps the trials so far to the next round of candidates; an empty round ends the search."""


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

    def __call__(self, trials: Sequence[Trial]) -> list[float]:
        """All points that are not yet tried, in one round."""
        tried = {trial.beta for trial in trials}
        return [point for point in self._points if point not in tried]


class Adaptive:
    """Brackets the minimum with coarse candidates, then refines by parabolas.

    Args:
        limit: largest legal β.
        higher_is_better: direction of the objective.
        resolution: neighbours closer than this are not told apart; defaults to 1/32 of the limit.
        rounds: at most this many refining trials.
    """

    COARSE = (0.0, 1 / 8, 1 / 4, 1 / 2)
    OUTER = (3 / 4, 1.0)

    def __init__(
        self,
        limit: float,
        *,
        higher_is_better: bool,
        resolution: float | None = None,
        rounds: int = 3,
    ) -> None:
        self._limit = limit
        self._higher = higher_is_better
        self._resolution = resolution or limit / 32
        self._rounds = rounds

    def __call__(self, trials: Sequence[Trial]) -> list[float]:
        """The next round of candidates."""
        if self._limit <= 0:
            return [] if trials else [0.0]
        tried = {trial.beta for trial in trials}
        coarse = [fraction * self._limit for fraction in self.COARSE]
        if missing := [beta for beta in coarse if beta not in tried]:
            return missing
        outer = [fraction * self._limit for fraction in self.OUTER]
        winner = best(trials, self._higher)
        for edge, beyond in zip((coarse[-1], outer[0]), outer, strict=True):
            if winner.beta == edge and beyond not in tried:
                return [beyond]
        refined = len(tried - set(coarse) - set(outer))
        if refined >= self._rounds:
            return []
        candidate = self._refine(trials, winner)
        return [] if candidate is None else [candidate]

    def _refine(self, trials: Sequence[Trial], winner: Trial) -> float | None:
        """A point between the winner and a neighbour, or None where they are close already."""
        points = sorted({trial.beta: trial for trial in trials}.values(), key=lambda t: t.beta)
        i = [point.beta for point in points].index(winner.beta)
        left = points[i - 1] if i > 0 else None
        right = points[i + 1] if i + 1 < len(points) else None
        gaps = [
            (abs(neighbour.beta - winner.beta), neighbour)
            for neighbour in (left, right)
            if neighbour is not None
        ]
        width, widest = max(gaps, key=lambda gap: gap[0])
        if width < 2 * self._resolution:
            return None
        vertex = None
        if left is not None and right is not None:
            vertex = _vertex([self._height(point) for point in (left, winner, right)])
        if vertex is not None and all(
            abs(vertex - point.beta) >= self._resolution for point in points
        ):
            return vertex
        return (winner.beta + widest.beta) / 2

    def _height(self, trial: Trial) -> tuple[float, float]:
        cost = trial.cost(self._higher)
        # Perplexities span orders of magnitude; their logarithm is close to a parabola.
        return trial.beta, math.log(cost) if cost > 0 else cost


def _vertex(points: Sequence[tuple[float, float]]) -> float | None:
    """Where the parabola through three points is lowest, or None where it opens downward."""
    (x0, y0), (x1, y1), (x2, y2) = points
    if not all(math.isfinite(y) for y in (y0, y1, y2)):
        return None
    a, b = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if abs(a - b) < 1e-30:
        return None
    x = x1 - 0.5 * ((x1 - x0) * a - (x1 - x2) * b) / (a - b)
    return x if x0 < x < x2 else None


def search_beta(
    judge: Callable[[float], Trial],
    strategy: Strategy,
    executor: Executor,
) -> list[Trial]:
    """Judge what `strategy` proposes until it proposes nothing.

    Args:
        judge: prunes with a β and measures the objective; may answer from a journal.
        strategy: proposes candidates.
        executor: runs each round.

    Returns:
        All trials in the order of the proposals.
    """
    trials: list[Trial] = []
    while candidates := strategy(trials):
        trials.extend(executor.run(judge, candidates))
    return trials
