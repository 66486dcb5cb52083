"""Meeting a parameter budget exactly, whatever the sizes of the blocks.

The paper's intercept makes the unweighted mean of the rates equal to S. Where blocks differ in
size that misses the share of parameters by far (ConvNeXt-B at S = 0.7 and β = 0.017 would lose
0.796 of them), so the intercept is solved for the weighted mean instead. With equal sizes both
are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["beta_max", "solve_intercept", "solve_scale", "unweighted_mean", "weighted_mean"]


def beta_max(sparsity: float, blocks: int) -> float:
    """The largest legal β: min(2S, 2(1−S))/(L−1) (Section 3.4 of the paper); 0 for one block."""
    if blocks < 2:
        return 0.0
    return min(2.0 * sparsity, 2.0 * (1.0 - sparsity)) / (blocks - 1)


def weighted_mean(sizes: Sequence[int], rates: Sequence[float]) -> float:
    """Share of all parameters that the rates cut."""
    total = sum(sizes)
    return sum(n * s for n, s in zip(sizes, rates, strict=True)) / total


def unweighted_mean(rates: Sequence[float]) -> float:
    """Mean of the rates, the paper's S."""
    return sum(rates) / len(rates)


def solve_intercept(sizes: Sequence[int], offsets: Sequence[float], sparsity: float) -> list[float]:
    """Rates s_i = clamp(b + offsets_i, 0, 1) with Σ n_i·s_i = S·Σ n_i.

    The left side never falls as b rises and is linear between the points where a rate meets 0 or
    1, so b lies on the segment that straddles the budget: what clamping takes from one block is
    spread over the others.

    Args:
        sizes: parameters n_i of each block, positive.
        offsets: what each rate has above the intercept.
        sparsity: S in [0, 1].
    """
    if sparsity <= 0.0:
        return [0.0] * len(sizes)
    if sparsity >= 1.0:
        return [1.0] * len(sizes)
    budget = sparsity * sum(sizes)

    def spent(b: float) -> float:
        return sum(n * _clamp(b + o) for n, o in zip(sizes, offsets, strict=True))

    corners = sorted({edge - o for o in offsets for edge in (0.0, 1.0)})
    low = max((b for b in corners if spent(b) <= budget), default=corners[0])
    high = min((b for b in corners if spent(b) >= budget), default=corners[-1])
    if low >= high:
        intercept = low
    else:
        below, above = spent(low), spent(high)
        intercept = low + (high - low) * (budget - below) / (above - below)
    return [_clamp(intercept + o) for o in offsets]


def solve_scale(sizes: Sequence[int], ratios: Sequence[float], sparsity: float) -> list[float]:
    """Rates s_i = min(η·ratios_i, 1) with Σ n_i·s_i = S·Σ n_i.

    What a block would get above 1 is spread over the others in proportion to their ratios; where
    all blocks with a ratio above 0 are at 1 and the budget is not met, the others share the rest
    alike.

    Args:
        sizes: n_i of each block, positive.
        ratios: how much of the budget each block asks for, not negative.
        sparsity: S in [0, 1].
    """
    budget = sparsity * sum(sizes)
    rates = [0.0] * len(sizes)
    free = set(range(len(sizes)))
    while free:
        left = budget - sum(n for i, n in enumerate(sizes) if i not in free)
        asked = sum(sizes[i] * ratios[i] for i in free)
        if asked <= 0.0:
            share = left / sum(sizes[i] for i in free)
            for i in free:
                rates[i] = _clamp(share)
            return rates
        scale = left / asked
        over = {i for i in free if scale * ratios[i] > 1.0}
        if not over:
            for i in free:
                rates[i] = _clamp(scale * ratios[i])
            return rates
        for i in over:
            rates[i] = 1.0
        free -= over
    return rates


def _clamp(rate: float) -> float:
    return min(max(rate, 0.0), 1.0)
