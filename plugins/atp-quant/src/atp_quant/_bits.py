"""Bits per block: ATP's progression turned into widths that meet an average budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atp_core.allocation.budget import beta_max, solve_intercept
from atp_core.errors import UsageError

__all__ = ["WIDTHS", "average", "beta_limit", "bits_from", "progression", "round_bits"]

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""Widths that compressed-tensors packs; with 1 bit, symmetric codes would be −1 and 0."""

# Budgets and progressions are floats; a width that is met exactly must not be missed by rounding.
_SLACK = 1e-9


def average(sizes: Sequence[int], bits: Sequence[float]) -> float:
    """Bits of a weight on average, Σ n_i·b_i / Σ n_i."""
    return sum(n * b for n, b in zip(sizes, bits, strict=True)) / sum(sizes)


def beta_limit(budget: float, blocks: int, widths: Sequence[int]) -> float:
    """The largest β, in bits a block, at which no block of equal ones needs clamping.

    It is the paper's limit min(2S, 2(1−S))/(L−1) with S = (most − budget)/(most − least).
    """
    span = widths[-1] - widths[0]
    if not span:
        return 0.0
    return span * beta_max((widths[-1] - budget) / span, blocks)


def progression(
    sizes: Sequence[int], budget: float, beta: float, widths: Sequence[int]
) -> list[float]:
    """Real-valued bits b_i = c − β·(i − 1), clamped to the widths, whose weighted mean is `budget`.

    Late blocks get fewer bits, as ATP gives them more sparsity (Eq. 10 of the paper, with the share
    of bits saved in the place of the rate).

    Args:
        sizes: weights n_i of each block.
        budget: bits of a weight on average.
        beta: bits by which a block has fewer than the one before it.
        widths: in rising order.

    Raises:
        UsageError: budget or β lies outside its range.
    """
    least, most = widths[0], widths[-1]
    if not least <= budget <= most:
        raise UsageError(
            f"an average of {budget:g} bits cannot be met with widths from {least} to {most}; "
            "give other --bits or --widths"
        )
    limit = beta_limit(budget, len(sizes), widths)
    if not (math.isfinite(beta) and 0.0 <= beta <= limit + _SLACK):
        raise UsageError(
            f"β = {beta:g} lies outside [0, {limit:.6g}], its range in bits a block for "
            f"{len(sizes)} blocks at {budget:g} bits on average"
        )
    span = most - least
    if not span:
        return [float(most)] * len(sizes)
    saved = solve_intercept(
        sizes, [beta / span * i for i in range(len(sizes))], (most - budget) / span
    )
    return [most - span * share for share in saved]


def round_bits(sizes: Sequence[int], bits: Sequence[float], widths: Sequence[int]) -> list[int]:
    """Widths next to the real-valued `bits`, with no more bits in all than these have.

    Each block gets the width below its own bits. What that leaves over raises those to the width
    above that are nearest to it (the method of largest remainders); of equally near ones those that
    lie spread over the depth.

    Args:
        sizes: weights of each block.
        bits: of each block, between the smallest and the largest width.
        widths: in rising order.
    """
    chosen = [max(w for w in widths if w <= b + _SLACK or w == widths[0]) for b in bits]
    upper = [min(w for w in widths if w >= b - _SLACK or w == widths[-1]) for b in bits]
    left = sum(n * (b - w) for n, b, w in zip(sizes, bits, chosen, strict=True))
    left += _SLACK * sum(sizes)

    def order(i: int) -> tuple[float, float]:
        gap = upper[i] - chosen[i]
        return -round((bits[i] - chosen[i]) / gap, 6) if gap else 0.0, _mirrored(i)

    for i in sorted(range(len(sizes)), key=order):
        cost = sizes[i] * (upper[i] - chosen[i])
        if cost <= left:
            chosen[i] = upper[i]
            left -= cost
    return chosen


def _mirrored(i: int) -> float:
    """The binary digits of `i` behind the point, in reverse: the smallest lie evenly spread."""
    value, digit = 0.0, 0.5
    while i:
        value += digit * (i & 1)
        i, digit = i >> 1, digit / 2
    return value


def bits_from(data: Any, blocks: Mapping[str, Sequence[str]], widths: Sequence[int]) -> list[int]:
    """The widths in a file: {"bits": {chain: {block: width}}}, such as a quant.json.

    Args:
        data: what the file holds.
        blocks: chain name → names of its blocks, in order.
        widths: those allowed.

    Raises:
        UsageError: a block has no width, or one that is not allowed.
    """
    found: list[int] = []
    for chain, names in blocks.items():
        for name in names:
            try:
                width = data["bits"][chain][name]
            except (KeyError, TypeError, IndexError):
                raise UsageError(
                    f"the file of bits has none for block {name!r} of chain {chain!r}; it holds "
                    '{"bits": {chain: {block: width}}}, as the quant.json of an output does'
                ) from None
            if isinstance(width, bool) or width not in widths:
                raise UsageError(
                    f"block {name} has {width!r} bits in the file; the widths are "
                    f"{', '.join(map(str, widths))}"
                )
            found.append(int(width))
    return found
