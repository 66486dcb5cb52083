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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ..errors import NumericalError
from ..methods import Method
from ..progress import Progress
from ..records import Block, Calibration, Chain
from .lockstep import Call, Lockstep
from .observation import BlockStatistics
from .placement import Placement
from .pruning import prune_block
from .snapshot import Snapshot

__all__ = ["BlockErrors", "Growth", "measure_beta"]

_DELTA = 0.05
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
class Growth:
    """Error growth of a model under uniform sparsity.

    Attributes:
        beta: ln(c)/a, the mean over chains weighted by their blocks; may be negative.
        growth: chain → c, the geometric mean of (L_i − f_i)/L_{i−1}.
        slope: chain → a, the median slope of ln f over s.
        drift: chain → mean step of ln f(S) from block to block, which the theory takes to be 0.
        blocks: the errors measured.
    """

    beta: float
    growth: Mapping[str, float]
    slope: Mapping[str, float]
    drift: Mapping[str, float]
    blocks: Sequence[BlockErrors]

    @property
    def betas(self) -> dict[str, float]:
        """ln(c)/a of each chain."""
        return {chain: math.log(c) / self.slope[chain] for chain, c in self.growth.items()}

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON-ready data."""
        return asdict(self)


def measure_beta(
    chains: Sequence[Chain],
    sparsity: Mapping[str, float],
    method: Method,
    calibration: Calibration,
    *,
    device: torch.device | None,
    progress: Progress,
) -> Growth:
    """Measure c and a under uniform sparsity; the weights are left as they were.

    Args:
        chains: the chains, dense.
        sparsity: chain name → S.
        method: the pruning method β is wanted for.
        calibration: a few samples.
        device: where blocks run; None leaves them where they are.
        progress: shown one step a block.

    Raises:
        NumericalError: errors are zero or not finite, so that nothing can be fitted.
    """
    home = {
        weight.tensor.device
        for chain in chains
        for block in chain.blocks
        for weight in block.weights
    }
    placement = Placement(device if len(home) == 1 else None, next(iter(home)))
    found: list[BlockErrors] = []
    pristine: list[Snapshot] = []
    total = sum(len(chain.blocks) for chain in chains)
    try:
        with (
            torch.inference_mode(),
            progress.task("measuring error growth", total) as advance,
            ExitStack() as stack,
        ):
            dense = Lockstep(calibration.forward, calibration.batches, chains, placement)
            sparse = Lockstep(calibration.forward, calibration.batches, chains, placement)
            twins = iter(stack.enter_context(dense))
            steps = iter(stack.enter_context(sparse))
            twin = next(twins)
            for stop in steps:
                calls = list(twin.calls)
                wanted = _outputs(stop.block, calls, placement)
                taken = BlockStatistics(stop.block, method)
                if method.calibrated:
                    taken.run(stop.calls, calibration.batch_samples, placement)
                # The twin runs the block while it is still dense.
                twin = next(twins, twin)
                pristine.append(Snapshot([Chain(stop.chain.name, [stop.block])]))

                def damage(
                    rate: float,
                    inputs: Sequence[Call],
                    stop: Any = stop,
                    taken: Any = taken,
                    wanted: Any = wanted,
                ) -> float:
                    pristine[-1].restore()
                    pristine[-1].stale = True
                    prune_block(stop.chain, stop.block, rate, method, taken)
                    return _distance(_outputs(stop.block, inputs, placement), wanted)

                s = sparsity[stop.chain.name]
                delta = min(_DELTA, s / 2, (1 - s) / 2)
                found.append(
                    BlockErrors(
                        chain=stop.chain.name,
                        name=stop.block.name,
                        lower=damage(s - delta, calls),
                        upper=damage(s + delta, calls),
                        fresh=damage(s, calls),
                        total=damage(s, stop.calls),
                        norm=sum(float(y.double().pow(2).sum()) for y in wanted),
                    )
                )
                del calls, wanted
                advance(stop.block.name)
    finally:
        for copy in pristine:
            copy.restore()
    return _fit(chains, sparsity, found)


def _outputs(block: Block, calls: Sequence[Call], placement: Placement) -> list[torch.Tensor]:
    """What the block gives for each batch: its first tensor, on the device."""
    outputs = []
    for call in calls:
        args, kwargs = placement.to_device((call.args, call.kwargs))
        output = block.module(*args, **kwargs)
        outputs.append(output if isinstance(output, torch.Tensor) else output[0])
    return outputs


def _distance(outputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Squared Frobenius norm of the difference, in float64."""
    return sum(
        float((y.double() - z.double()).pow(2).sum()) for y, z in zip(outputs, wanted, strict=True)
    )


def _fit(
    chains: Sequence[Chain], sparsity: Mapping[str, float], found: Sequence[BlockErrors]
) -> Growth:
    growth: dict[str, float] = {}
    slope: dict[str, float] = {}
    drift: dict[str, float] = {}
    weights: dict[str, int] = {}
    for chain in chains:
        errors = [block for block in found if block.chain == chain.name]
        if len(errors) < 2:
            continue
        s = sparsity[chain.name]
        delta = min(_DELTA, s / 2, (1 - s) / 2)
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
        weights[chain.name] = len(errors)
    if not weights:
        raise NumericalError("no chain has two blocks, so there is no β to estimate")
    measured = Growth(0.0, growth, slope, drift, found)
    total = sum(count * measured.betas[chain] for chain, count in weights.items())
    return replace(measured, beta=total / sum(weights.values()))
