"""ECoFLaP: blocks whose weights move the loss more stay denser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..errors import NumericalError, UsageError
from ..records import Block, PrunableWeight, Schedule
from . import AllocationRequest, Observed
from ._options import choice, number, only, whole
from .budget import solve_scale

__all__ = ["ECoFLaP"]


class ECoFLaP:
    """Rates by zeroth-order gradients: two losses a block instead of a backward pass.

    Score of a block: |loss(W + ε·z) − loss(W − ε·z)|/(2ε), z standard normal over its weights.
    Every block keeps the share 1 − (S + margin) of its parameters, and what the budget leaves over
    is given out in proportion to the scores; what a block cannot hold goes to the others.

    The reference perturbs one tensor at a time and adds up (`per=weight`, as many pairs of losses
    as there are tensors); `per=block` perturbs all of a block at once. Its loss is on 128
    calibration samples; here it is the objective of a search on the search split. The reference
    spreads the budget over the towers of a multimodal model, as `across=true` does.

    Source: Sung et al., "ECoFLaP" (ICLR 2024), and its repository.

    Options: "eps" (0.001), "margin" (0.1), "per" ("block", or "weight"), "across" (False: each
    chain meets its own S; True: only all chains together do), "seed" (0).
    """

    name = "ecoflap"
    takes_beta = False
    needs = frozenset({"weights", "observed", "loss"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is unknown or outside its range.
            NumericalError: the loss is not finite where weights are moved.
        """
        options = request.options
        only(self.name, options, "across", "eps", "margin", "per", "seed")
        eps = number(options, "eps", 1e-3, 1e-8, 1.0)
        margin = number(options, "margin", 0.1, 0.0, 1.0)
        per = choice(options, "per", "block", "block", "weight")
        generator = torch.Generator().manual_seed(whole(options, "seed", 0, 0))
        across = options.get("across", False)
        if not isinstance(across, bool):
            raise UsageError(f"the option 'across' must be true or false, not {across!r}")
        groups = [
            ([(chain.name, block) for block in chain.blocks], request.sparsity[chain.name])
            for chain in request.chains
        ]
        if across:
            groups = [([one for blocks, _ in groups for one in blocks], request.target)]
        rates: dict[str, dict[str, float]] = {chain.name: {} for chain in request.chains}
        for blocks, target in groups:
            scores = [_score(block, request.shown, eps, per, generator) for _, block in blocks]
            solved = _rates([block.parameters for _, block in blocks], scores, target, margin)
            for (chain, block), rate in zip(blocks, solved, strict=True):
                rates[chain][block.name] = rate
        return Schedule(rates, request.target, self.name)


def _rates(
    sizes: Sequence[int], scores: Sequence[float], target: float, margin: float
) -> list[float]:
    """What is kept: the floor, and shares of the rest in proportion to the scores."""
    most = min(target + margin, 1.0)
    if not any(scores):
        return [target] * len(sizes)
    if most <= 0.0:
        return [0.0] * len(sizes)
    # Of what lies above the floor, n_i·most parameters a block, a share is kept.
    share = (most - target) / most
    kept = solve_scale(
        sizes, [score / n for score, n in zip(scores, sizes, strict=True)], share
    )
    return [most * (1.0 - one) for one in kept]


def _score(
    block: Block, observed: Observed, eps: float, per: str, generator: torch.Generator
) -> float:
    groups = [[weight] for weight in block.weights] if per == "weight" else [list(block.weights)]
    return sum(_slope(group, observed, eps, generator) for group in groups)


@torch.no_grad()
def _slope(
    weights: Sequence[PrunableWeight],
    observed: Observed,
    eps: float,
    generator: torch.Generator,
) -> float:
    """The loss's slope along a random direction of some weights, which are put back bit for bit."""
    before = [weight.matrix().clone() for weight in weights]
    noise = [torch.randn(one.shape, generator=generator) for one in before]
    losses = []
    try:
        for sign in (eps, -eps):
            for weight, one, z in zip(weights, before, noise, strict=True):
                moved = one.float() + sign * z.to(one.device)
                weight.matrix().copy_(moved)
            losses.append(observed.loss())
    finally:
        for weight, one in zip(weights, before, strict=True):
            weight.matrix().copy_(one)
    slope = abs(losses[0] - losses[1]) / (2.0 * eps)
    if not math.isfinite(slope):
        raise NumericalError(
            f"the loss is {losses[0]} and {losses[1]} where {weights[0].name} is moved by {eps:g}, "
            "so it has no slope; try a smaller eps"
        )
    return slope
