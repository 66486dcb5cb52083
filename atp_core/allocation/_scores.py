"""What allocations have in common: Wanda scores of blocks, and offsets made of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ..records import Block, Chain, Schedule
from . import AllocationRequest, Observed
from .budget import solve_intercept
from .uniform import Uniform

__all__ = ["by_offsets", "min_max", "uniform_as", "wanda_scores"]


def wanda_scores(block: Block, observed: Observed) -> Iterator[torch.Tensor]:
    """|W|·‖X‖₂ of every weight of a block, one weight at a time, float32 on the CPU.

    The norms are of the dense model. An expert that no token reached has none: |W| stands alone,
    as in pruning.

    Source: Sun et al., "A Simple and Effective Pruning Approach for LLMs" (ICLR 2024).
    """
    for weight in block.weights:
        scores = weight.matrix().detach().to("cpu", torch.float32).abs()
        norms = observed.norms(weight)
        yield scores if norms is None else scores * norms


def min_max(scores: Sequence[float]) -> list[float]:
    """Scores stretched to [0, 1]; all 0 where nothing tells them apart."""
    low, high = min(scores), max(scores)
    if not high > low:
        return [0.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]


def uniform_as(name: str, request: AllocationRequest) -> Schedule:
    """Uniform sparsity, told as the start of an allocation's search."""
    rates = Uniform().allocate(AllocationRequest(request.chains, request.sparsity)).rates
    return Schedule(rates, request.target, name)


def by_offsets(
    request: AllocationRequest, name: str, offsets: Callable[[Chain], Sequence[float]]
) -> Schedule:
    """A schedule whose rates are offsets above an intercept that meets each chain's budget."""
    rates = {}
    for chain in request.chains:
        sizes = [block.parameters for block in chain.blocks]
        solved = solve_intercept(sizes, list(offsets(chain)), request.sparsity[chain.name])
        names = [block.name for block in chain.blocks]
        rates[chain.name] = dict(zip(names, solved, strict=True))
    return Schedule(rates, request.target, name)
