"""How many units of each group go, so that a block loses the share it should."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from atp_core.records import PrunableWeight

from ._groups import Group

__all__ = ["Budget"]


class Budget:
    """Counts what the prunable weights of a block lose with its units.

    Args:
        module: the block's module, whole.
        weights: its prunable weights.
        groups: what can go.
    """

    def __init__(
        self, module: nn.Module, weights: Sequence[PrunableWeight], groups: Sequence[Group]
    ) -> None:
        paths = {id(part): path for path, part in module.named_modules()}
        self._groups = groups
        self._parts: list[tuple[int, list[int]]] = []
        for weight in weights:
            path = paths.get(id(weight.module))
            touching = [
                i
                for i, group in enumerate(groups)
                for side in ("out", "in")
                if path is not None and weight.parameter == "weight" and group.touches(path, side)
            ]
            # A depthwise kernel, or a layer between two groups, is touched on either side.
            self._parts.append((weight.numel, touching))
        self.total = sum(size for size, _ in self._parts)

    def removed(self, counts: Sequence[float]) -> float:
        """Prunable weights that go with so many units of each group."""
        kept = [1.0 - n / group.units for n, group in zip(counts, self._groups, strict=True)]
        return sum(size * (1.0 - math.prod(kept[i] for i in own)) for size, own in self._parts)

    def counts(self, rate: float) -> list[int]:
        """Units of each group to remove, so that the weights removed come nearest to a share.

        Every group loses the same share of its units, as far as whole ones allow; the group of
        the smallest units makes up for what the others round. One unit of each stays.

        Args:
            rate: share of the block's prunable weights, in [0, 1].
        """
        if not self._groups or rate <= 0.0:
            return [0] * len(self._groups)
        wanted = rate * self.total
        share = self._share(wanted)
        counts = [min(round(share * group.units), group.units - 1) for group in self._groups]
        finest = min(range(len(counts)), key=self._unit)
        counts[finest] = min(
            range(self._groups[finest].units),
            key=lambda n: self._miss([*counts[:finest], n, *counts[finest + 1 :]], wanted),
        )
        # Where the finest group is at its end, the others make up for it one by one.
        while True:
            best = min(self._neighbours(counts), key=lambda one: self._miss(one, wanted))
            if self._miss(best, wanted) >= self._miss(counts, wanted):
                return counts
            counts = best

    def _miss(self, counts: Sequence[float], wanted: float) -> float:
        return abs(self.removed(counts) - wanted)

    def _unit(self, group: int) -> float:
        return self.removed([float(i == group) for i in range(len(self._groups))])

    def _share(self, wanted: float) -> float:
        """The share of units, the same in all groups, that removes so many weights."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            counts = [min(middle * group.units, group.units - 1) for group in self._groups]
            low, high = (middle, high) if self.removed(counts) < wanted else (low, middle)
        return high

    def _neighbours(self, counts: list[int]) -> list[list[int]]:
        found = [counts]
        for i, group in enumerate(self._groups):
            for n in (counts[i] - 1, counts[i] + 1):
                if 0 <= n < group.units:
                    found.append([*counts[:i], n, *counts[i + 1 :]])
        return found
