"""A method that cuts by a pattern: what the engine prunes with where N:M is asked for."""

from __future__ import annotations

import torch

from ..errors import UsageError
from ..pattern import Pattern
from . import Method, Pruned, Statistics
from .selection import tail_kept

__all__ = ["Patterned"]


class Patterned:
    """Turns rates into whole numbers of a group, and has a method choose within groups.

    Args:
        method: one with `prune_pattern`.
        pattern: N:M, or M with an N for each rate.

    Raises:
        UsageError: the method knows no patterns.
    """

    def __init__(self, method: Method, pattern: Pattern) -> None:
        if not hasattr(method, "prune_pattern"):
            raise UsageError(
                f"the method {method.name!r} cannot prune by a pattern; choose one that can, such "
                "as wanda, sparsegpt, alps or magnitude, or leave out --pattern"
            )
        self._method = method
        self._pattern = pattern
        self.name = method.name
        self.calibrated = method.calibrated
        self.small_statistics = getattr(method, "small_statistics", False)

    def statistics(self, in_features: int, device: torch.device) -> Statistics | None:
        """Those of the method."""
        return self._method.statistics(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Keep N of every M consecutive weights of a row of `weight`, N by the rate.

        Shape (out_features, in_features).
        """
        keep, of = self._pattern.kept(rate), self._pattern.of
        if keep == of:
            return Pruned(torch.ones_like(weight, dtype=torch.bool))
        if keep == 0:
            return Pruned(torch.zeros_like(weight, dtype=torch.bool))
        pruned: Pruned = self._method.prune_pattern(weight, keep, of, statistics)
        tail = weight.shape[1] % of
        if tail:
            pruned.notes.append(
                f"{weight.shape[1]} inputs are no multiple of {of}: of the last {tail} of each "
                f"row {tail_kept(tail, keep, of)} are kept"
            )
        return pruned
