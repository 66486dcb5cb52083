"""Measuring how reconstruction error grows, and the β that follows from it.

With L_{i+1} = c·L_i + f(s_{i+1}) and f(s) = A·exp(a·s), the error of the last block under a fixed
mean rate is smallest for an arithmetic progression with β* = ln(c)/a. (The recursion is that of
Theorem 3.5 of the ATP paper; the closed form is not in the paper.) Both c and a can be measured in
one pass over a few samples: a dense twin of every forward runs in lockstep, so that each block's
error is known at its own output, with its inputs dense and with its inputs already damaged.
"""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

import torch

from ..errors import NumericalError
from ..methods import Method
from ..progress import Progress
from ..records import Calibration, Chain
from ._twin import Pair, distance, outputs, pairs, squared_norm
from .lockstep import Call
from .placement import Placement
from .pruning import prune_block
from .snapshot import Snapshot

__all__ = ["BlockErrors", "Fit", "Growth", "half_step", "measure_beta"]

_DELTA: Final = 0.05
"""Half the distance of the two rates between which the slope a is measured."""


@dataclass(frozen=True)
class BlockErrors:
    """Squared Frobenius errors at the output of one block, over all samples.

    Attributes:
        chain: name of the chain.
        name: name of the block.
        total: with damaged inputs and the block at rate S: L_i of the paper's Eq. 1.
        fresh: with dense inputs and the block at rate S: f(S).
        lower: with dense inputs and the block a little below S.
        upper: with dense inputs and the block a little above S.
        norm: squared norm of the dense output.
    """

    chain: str
    name: str
    total: float
    fresh: float
    lower: float
    upper: float
    norm: float


@dataclass(frozen=True)
class Fit:
    """How well one c and one a describe a chain.

    A figure is None where too few blocks are there to tell.

    Attributes:
        ratios: steps between blocks from which c was taken: those at which the error that is
            handed on is above 0.
        steps: all steps between blocks.
        growth_spread: standard deviation of ln of the ratios, whose mean is ln c.
        growth_stderr: standard error of ln c.
        growth_r2: share of the variance of ln L_{i+1} that ln(c·L_i + f_{i+1}) explains; may be
            negative.
        slope_spread: standard deviation of the slope a from block to block.
        slope_stderr: standard error of the median slope, were the slopes normally distributed.
        slope_r2: share of the variance of ln f over s, inside blocks, that one a explains.
        beta_stderr: standard error of ln(c)/a that follows from the two, to first order.
    """

    ratios: int
    steps: int
    growth_spread: float | None
    growth_stderr: float | None
    growth_r2: float | None
    slope_spread: float | None
    slope_stderr: float | None
    slope_r2: float | None
    beta_stderr: float | None


@dataclass(frozen=True)
class Growth:
    """Error growth of a model under uniform sparsity.

    Attributes:
        beta: ln(c)/a, the mean over chains weighted by their blocks; may be negative.
        growth: chain → c, the geometric mean of (L_i − f_i)/L_{i−1}.
        slope: chain → a, the median slope of ln f over s.
        drift: chain → mean step of ln f(S) from block to block, which the theory takes to be 0.
        blocks: the errors measured.
        fit: chain → how well c and a describe it.
    """

    beta: float
    growth: Mapping[str, float]
    slope: Mapping[str, float]
    drift: Mapping[str, float]
    blocks: Sequence[BlockErrors]
    fit: Mapping[str, Fit]

    @property
    def betas(self) -> dict[str, float]:
        """ln(c)/a of each chain."""
        return {chain: math.log(c) / self.slope[chain] for chain, c in self.growth.items()}

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON-ready data."""
        return asdict(self)


def half_step(sparsity: float) -> float:
    """Half the distance of the two rates around S at which a block's error is measured."""
    return min(_DELTA, sparsity / 2, (1 - sparsity) / 2)


def measure_beta(
    chains: Sequence[Chain],
    sparsity: Mapping[str, float],
    method: Method,
    calibration: Calibration,
    *,
    device: torch.device | None,
    progress: Progress,
    dense_inputs: bool = False,
) -> Growth:
    """Measure c and a under uniform sparsity; the weights are left as they were.

    Args:
        chains: the chains, dense.
        sparsity: chain name → S.
        method: the pruning method β is wanted for.
        calibration: a few samples.
        device: where blocks run; None leaves them where they are.
        progress: shown one step a block.
        dense_inputs: take statistics on what enters the blocks of the dense model.

    Raises:
        NumericalError: errors are zero or not finite, so that nothing can be fitted.
    """
    placement = Placement.of(chains, device)
    found: list[BlockErrors] = []
    pristine: list[Snapshot] = []
    total = sum(len(chain.blocks) for chain in chains)
    try:
        with (
            torch.inference_mode(),
            progress.task("measuring error growth", total) as advance,
            closing(
                pairs(chains, method, calibration, placement, dense_inputs=dense_inputs)
            ) as stops,
        ):
            for pair in stops:
                stop = pair.stop
                if stop.chain.placement is not None:
                    pristine.clear()  # the block before is on disk as it was
                pristine.append(Snapshot([Chain(stop.chain.name, [stop.block])]))

                def damage(rate: float, inputs: Sequence[Call], pair: Pair = pair) -> float:
                    pristine[-1].restore()
                    pristine[-1].stale = True
                    prune_block(pair.stop.chain, pair.stop.block, rate, method, pair.statistics)
                    return distance(outputs(pair.stop.block, inputs, placement), pair.wanted)

                s = sparsity[stop.chain.name]
                delta = half_step(s)
                found.append(
                    BlockErrors(
                        chain=stop.chain.name,
                        name=stop.block.name,
                        lower=damage(s - delta, pair.calls),
                        upper=damage(s + delta, pair.calls),
                        fresh=damage(s, pair.calls),
                        total=damage(s, stop.calls),
                        norm=squared_norm(pair.wanted),
                    )
                )
                pair.drop()
                advance(stop.block.name)
    finally:
        # What was done to a block that is streamed was let go of with the block.
        if all(chain.placement is None for chain in chains):
            for copy in pristine:
                copy.restore()
    return _fit(chains, sparsity, found)


def _fit(
    chains: Sequence[Chain], sparsity: Mapping[str, float], found: Sequence[BlockErrors]
) -> Growth:
    growth: dict[str, float] = {}
    slope: dict[str, float] = {}
    drift: dict[str, float] = {}
    fits: dict[str, Fit] = {}
    weights: dict[str, int] = {}
    for chain in chains:
        errors = [block for block in found if block.chain == chain.name]
        if len(errors) < 2:
            continue
        s = sparsity[chain.name]
        delta = half_step(s)
        ratios = [
            (after.total - after.fresh) / before.total
            for before, after in pairwise(errors)
            if before.total > 0
        ]
        logs = [math.log(ratio) for ratio in ratios if ratio > 0 and math.isfinite(ratio)]
        slopes = [
            math.log(block.upper / block.lower) / (2 * delta)
            for block in errors
            if block.lower > 0 and block.upper > 0
        ]
        steps = [
            math.log(after.fresh / before.fresh)
            for before, after in pairwise(errors)
            if before.fresh > 0 and after.fresh > 0
        ]
        if not logs or not slopes or not steps or stats.median(slopes) <= 0:
            raise NumericalError(
                f"the reconstruction errors of chain {chain.name!r} do not grow with sparsity "
                "and depth, so β cannot be estimated from them; use --beta search"
            )
        growth[chain.name] = math.exp(stats.fmean(logs))
        slope[chain.name] = stats.median(slopes)
        drift[chain.name] = stats.fmean(steps)
        fits[chain.name] = _goodness(errors, logs, slopes, delta)
        weights[chain.name] = len(errors)
    if not weights:
        raise NumericalError("no chain has two blocks, so there is no β to estimate")
    measured = Growth(0.0, growth, slope, drift, found, fits)
    total = sum(count * measured.betas[chain] for chain, count in weights.items())
    return replace(measured, beta=total / sum(weights.values()))


def _goodness(
    errors: Sequence[BlockErrors], logs: Sequence[float], slopes: Sequence[float], delta: float
) -> Fit:
    """The fit of one chain.

    Args:
        errors: those of its blocks, in order.
        logs: logarithms of the ratios that c is the geometric mean of.
        slopes: those that a is the median of.
        delta: half the distance of the rates that the slopes were taken between.
    """
    log_c, a = stats.fmean(logs), stats.median(slopes)
    growth_stderr = _stderr(logs)
    slope_stderr = _stderr(slopes)
    if slope_stderr is not None:
        # The median of n normal figures varies by √(π/2) as much as their mean, for large n.
        slope_stderr *= math.sqrt(math.pi / 2)
    beta_stderr = None
    if growth_stderr is not None and slope_stderr is not None:
        beta_stderr = math.hypot(growth_stderr / a, log_c * slope_stderr / a**2)
    steps = [
        (math.log(after.total), math.log(math.exp(log_c) * before.total + after.fresh))
        for before, after in pairwise(errors)
        if before.total > 0 and after.total > 0
    ]
    seen = [total for total, _ in steps]
    middle = stats.fmean(seen) if seen else 0.0
    # Inside a block, ln f at the three rates against one line of slope a.
    curves = [
        [math.log(f) for f in (block.lower, block.fresh, block.upper)]
        for block in errors
        if min(block.lower, block.fresh, block.upper) > 0
    ]
    centred = [[y - stats.fmean(curve) for y in curve] for curve in curves]
    line = (-a * delta, 0.0, a * delta)
    return Fit(
        ratios=len(logs),
        steps=len(errors) - 1,
        growth_spread=_spread(logs),
        growth_stderr=growth_stderr,
        growth_r2=_explained(
            [total - middle for total in seen], [total - given for total, given in steps]
        ),
        slope_spread=_spread(slopes),
        slope_stderr=slope_stderr,
        slope_r2=_explained(
            [y for curve in centred for y in curve],
            [y - x for curve in centred for y, x in zip(curve, line, strict=True)],
        ),
        beta_stderr=beta_stderr,
    )


def _spread(figures: Sequence[float]) -> float | None:
    return stats.stdev(figures) if len(figures) > 1 else None


def _stderr(figures: Sequence[float]) -> float | None:
    spread = _spread(figures)
    return None if spread is None else spread / math.sqrt(len(figures))


def _explained(centred: Sequence[float], residuals: Sequence[float]) -> float | None:
    """R²: 1 − Σ residual² / Σ centred²; None where nothing varies."""
    total = sum(y * y for y in centred)
    if len(centred) < 2 or total <= 0:
        return None
    return 1 - sum(r * r for r in residuals) / total
