"""Which way a layer goes for how many tokens: measured on the device, dense among the candidates.

A *route* is one way to compute x · Wᵀ + bias:

    dense     the dense weight stays in memory
    bitmask   `_kernels.fma_kernel` and `dot_kernel` on the packed weight, up to 16 tokens
    unpack    the packed weight is unpacked into scratch, then a dense product
    2:4       torch's semi-structured product

A *plan* names a route for each range of tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ._launch import MOST_TOKENS

__all__ = ["BUCKETS", "Plan", "Route", "fixed_plan", "interleaved", "measured_plan"]

Route = Literal["dense", "bitmask", "unpack", "2:4"]

BUCKETS: tuple[tuple[int | None, int], ...] = (
    (1, 1), (2, 2), (4, 4), (8, 8), (MOST_TOKENS, 16), (128, 64), (None, 512),
)  # fmt: skip
"""Ranges of tokens, by the most in each, and how many tokens are timed for it."""

# What a sparse route has to win by to be taken: differences below are of the measurement.
_MARGIN = 0.97


@dataclass(frozen=True)
class Plan:
    """A route for each range of tokens.

    Attributes:
        steps: (most tokens, route), ascending; the last has no most.
        why: a phrase about how it was found, with the times relative to dense.
    """

    steps: tuple[tuple[int | None, Route], ...]
    why: str

    def route(self, tokens: int) -> Route:
        """The route for so many tokens."""
        for most, route in self.steps:
            if most is None or tokens <= most:
                return route
        raise AssertionError("the last step of a plan has no most")

    @property
    def routes(self) -> frozenset[Route]:
        """All routes that it takes."""
        return frozenset(route for _, route in self.steps)

    def __str__(self) -> str:
        if len(self.routes) == 1:
            return self.steps[0][1]
        return ", ".join(
            f"{route} above" if most is None else f"{route} to {most}"
            for most, route in _merged(self.steps)
        )


def fixed_plan(candidates: Sequence[Route], why: str) -> Plan:
    """A plan without measuring: the first candidate that can, in every range."""

    def first(most: int | None) -> Route:
        few = most is not None and most <= MOST_TOKENS
        return next(route for route in candidates if few or route != "bitmask")

    return Plan(_merged(tuple((most, first(most)) for most, _ in BUCKETS)), why)


def measured_plan(
    candidates: Sequence[Route], times: Callable[[int, Sequence[Route]], Mapping[Route, float]]
) -> Plan | None:
    """The plan that is quickest by measurement, or None where the layer had better stay dense.

    Args:
        candidates: the routes that the layer can go, without dense where the dense weight is not
            to be kept. Then a layer is sparse if it is not slower for one token, and takes the
            quickest of its sparse routes for more, even one that is slower than dense.
        times: measures routes, dense always among them, for a number of tokens: seconds of each.
    """
    keep_dense = "dense" in candidates
    steps: list[tuple[int | None, Route]] = []
    told = []
    for most, tokens in BUCKETS:
        able = [r for r in candidates if r != "bitmask" or tokens <= MOST_TOKENS]
        extra: list[Route] = [] if keep_dense else ["dense"]
        measured = times(tokens, [*able, *extra])
        sparse = min((r for r in able if r != "dense"), key=measured.__getitem__, default=None)
        wins = sparse is not None and measured[sparse] <= _MARGIN * measured["dense"]
        if not keep_dense and tokens == 1 and not wins:
            return None
        if sparse is None or (keep_dense and not wins):
            steps.append((most, "dense"))
        else:
            steps.append((most, sparse))
            told.append(f"{measured['dense'] / measured[sparse]:.2f}× at {tokens}")
    if all(route == "dense" for _, route in steps):
        return None
    return Plan(_merged(tuple(steps)), "measured against dense, by tokens: " + ", ".join(told))


def interleaved(
    calls: Mapping[Route, Callable[[], float]], rounds: int = 9
) -> dict[Route, float]:
    """The median time of each call, all of them in turn in every round.

    Args:
        calls: each runs one route once and returns its seconds.
        rounds: how often; one more goes first and does not count.
    """
    found: dict[Route, list[float]] = {route: [] for route in calls}
    for round_ in range(rounds + 1):
        for route, call in calls.items():
            seconds = call()
            if round_:
                found[route].append(seconds)
    return {route: statistics.median(seconds) for route, seconds in found.items()}


def _merged(
    steps: Sequence[tuple[int | None, Route]],
) -> tuple[tuple[int | None, Route], ...]:
    """Neighbouring ranges of one route as one."""
    kept: list[tuple[int | None, Route]] = []
    for most, route in steps:
        if kept and kept[-1][1] == route:
            kept.pop()
        kept.append((most, route))
    return tuple(kept)
