"""Spreads over single weights, and the rates of blocks that they imply."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from ..records import Chain, PrunableWeight, Schedule
from . import AllocationRequest

__all__ = ["by_threshold", "implied"]

_SHIFT = 11  # bits of a float32 that a bin leaves out: bins 2⁻¹² apart, relative to the score
_BINS = 1 << (31 - _SHIFT)


def implied(
    request: AllocationRequest,
    name: str,
    cut: Callable[[Chain, float], Mapping[str, float]],
) -> Schedule:
    """The schedule of block rates that a spread by weight implies.

    Args:
        request: what is asked for.
        name: of the allocation.
        cut: gives, for a chain and its S, how many parameters of each weight are cut, by its name.
    """
    rates = {}
    for chain in request.chains:
        spread = cut(chain, request.sparsity[chain.name])
        rates[chain.name] = {
            block.name: min(sum(spread[w.name] for w in block.weights) / block.parameters, 1.0)
            for block in chain.blocks
        }
    return Schedule(rates, request.target, name)


def by_threshold(
    chain: Chain,
    sparsity: float,
    scores: Callable[[PrunableWeight], torch.Tensor],
) -> dict[str, float]:
    """How many parameters of each weight lie below the one threshold that cuts `sparsity` of all.

    Scores are counted in bins of their leading bits, so that no more than one weight's are held at
    a time. Those in the bin of the threshold are cut in proportion, which meets the budget exactly
    and also settles ties.

    Args:
        chain: whose weights share the threshold.
        sparsity: S.
        scores: of a weight, any shape, not negative, float32.
    """
    counts = {weight.name: _histogram(scores(weight)) for weight in _weights(chain)}
    total = sum(counts.values())
    assert isinstance(total, torch.Tensor)
    budget = sparsity * float(total.sum())
    upto = total.cumsum(0)
    edge = min(int(torch.searchsorted(upto, budget)), _BINS - 1)
    below = float(upto[edge - 1]) if edge else 0.0
    inside = float(total[edge])
    share = (budget - below) / inside if inside > 0 else 0.0
    return {
        name: float(count[:edge].sum()) + share * float(count[edge])
        for name, count in counts.items()
    }


def _histogram(scores: torch.Tensor) -> torch.Tensor:
    # Bit patterns of floats that are not negative are in the order of the floats.
    bits = scores.detach().float().contiguous().view(torch.int32).flatten() >> _SHIFT
    return torch.bincount(bits.long(), minlength=_BINS).double().cpu()


def _weights(chain: Chain) -> Iterator[PrunableWeight]:
    for block in chain.blocks:
        yield from block.weights


def spread(weights: Sequence[PrunableWeight], densities: Sequence[float]) -> dict[str, float]:
    """Parameters cut of each weight, from the densities."""
    return {
        weight.name: (1.0 - density) * weight.numel
        for weight, density in zip(weights, densities, strict=True)
    }
