"""N:M sparsity: N of every M consecutive weights of a row are kept. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Pattern", "whole_rates"]

_MOST = 256


@dataclass(frozen=True)
class Pattern:
    """What is kept of every group of consecutive weights in a row.

    Attributes:
        of: M, the weights in a group.
        keep: N, those that are kept; None where each block has its own ("mixed").
    """

    of: int
    keep: int | None = None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """A pattern as users write it: "2:4", or "mixed:8".

        Raises:
            ValueError: it is none.
        """
        found = re.fullmatch(r"(mixed|\d+):(\d+)", text.strip())
        of = int(found[2]) if found else 0
        keep = None if found is None or found[1] == "mixed" else int(found[1])
        if found is None or not 2 <= of <= _MOST or (keep is not None and not 1 <= keep < of):
            raise ValueError(
                f"must be N:M with 1 ≤ N < M ≤ {_MOST}, such as 2:4, or mixed:M, such as mixed:8"
            )
        return cls(of, keep)

    @property
    def sparsity(self) -> float | None:
        """1 − N/M; None for a mixed one, which meets any."""
        return None if self.keep is None else 1.0 - self.keep / self.of

    def kept(self, rate: float) -> int:
        """N of a weight that is pruned at a rate, which stands for whole numbers of a group."""
        if self.keep is not None and 0.0 < rate < 1.0:
            return self.keep
        return min(max(round((1.0 - rate) * self.of), 0), self.of)


def whole_rates(
    rates: Sequence[float], sizes: Sequence[int], target: float, of: int
) -> list[float]:
    """Rates of whole numbers of groups, 1 − N_i/M, as near to given ones as the budget allows.

    N_i is M·(1 − s_i) rounded down, and up for the blocks that lose most by it, as long as no more
    is kept than the budget has; so the sparsity is `target` or above it by less than one step of a
    block. Where rates rise, N falls. Of equal remainders, as of uniform sparsity, those are rounded
    up that spread evenly over depth.

    Args:
        rates: s_i of each block.
        sizes: its parameters.
        target: sparsity of all blocks together, weighted by parameters.
        of: M.
    """
    wanted = [of * (1.0 - rate) for rate in rates]
    kept = [int(one + 1e-9) for one in wanted]
    budget = of * (1.0 - target) * sum(sizes) * (1.0 + 1e-12)
    spent = sum(n * size for n, size in zip(kept, sizes, strict=True))
    remainders = [round(one - n, 9) for one, n in zip(wanted, kept, strict=True)]
    for remainder in sorted(set(remainders), reverse=True):
        if remainder <= 0.0:
            break
        for i in _spread([i for i, one in enumerate(remainders) if one == remainder]):
            if kept[i] < of and spent + sizes[i] <= budget:
                kept[i] += 1
                spent += sizes[i]
    return [1.0 - n / of for n in kept]


def _spread(positions: list[int]) -> list[int]:
    """The same positions in an order in which every beginning lies spread over all of them."""
    order: list[int] = []
    step = len(positions)
    while len(order) < len(positions):
        order += [one for one in positions[::step] if one not in order]
        step = max(1, step // 2)
    return order
