"""Pruning one located model to a schedule: calibrate and prune, block by block, in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from ..errors import DataError, NumericalError
from ..methods import Method, Statistics
from ..progress import NullProgress, Progress
from ..records import Block, Calibration, Chain, LoadedModel, PrunableWeight, Schedule
from .dense import DenseStatistics, repeated_notes
from .lockstep import Lockstep
from .observation import BlockStatistics
from .placement import Placement

__all__ = ["BlockReport", "PruneOptions", "PruneReport", "prune_block", "prune_model"]


@dataclass(frozen=True)
class PruneOptions:
    """How to prune.

    Attributes:
        device: where blocks run; None leaves the model where it is.
        progress: shown one step a block.
        title: what the progress is called.
        dense: take every block's statistics with the blocks before it still dense.
        statistics: what the dense model showed, taken before; then nothing is run.
    """

    device: torch.device | None = None
    progress: Progress = field(default_factory=NullProgress)
    title: str = "pruning"
    dense: bool = False
    statistics: DenseStatistics | None = None


@dataclass(frozen=True)
class BlockReport:
    """What was done to one block.

    Attributes:
        chain: name of its chain.
        name: name of the block.
        rate: the rate asked for.
        zeros: weights set to zero.
        parameters: prunable weights of the block.
        notes: what a user must know.
    """

    chain: str
    name: str
    rate: float
    zeros: int
    parameters: int
    notes: tuple[str, ...] = ()

    @property
    def achieved(self) -> float:
        """Share of the block's prunable weights that are zero."""
        return self.zeros / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class PruneReport:
    """What was done to a model."""

    blocks: Sequence[BlockReport]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def achieved(self) -> float:
        """Share of all prunable weights that are zero."""
        total = sum(block.parameters for block in self.blocks)
        return sum(block.zeros for block in self.blocks) / total if total else 0.0


def prune_model(
    loaded: LoadedModel,
    chains: Sequence[Chain],
    schedule: Schedule,
    method: Method,
    calibration: Calibration | None,
    options: PruneOptions,
) -> PruneReport:
    """Prune `loaded` in place to the rates of `schedule`.

    Each block's statistics are taken with the blocks before it already pruned, so that errors
    are seen where they arise. With `options.dense` the blocks before it are still dense. Every
    batch runs every block twice, never more, and not at all with `options.statistics`.

    Raises:
        DataError: `method` needs calibration data and there is none.
        ModelError: the model cannot be driven block by block.
        NumericalError: weights or activations are not finite, or a factorization fails.
    """
    started = time.perf_counter()
    rates = {
        id(block): rate
        for chain in chains
        for block, rate in zip(chain.blocks, schedule.of(chain), strict=True)
    }
    total = sum(len(chain.blocks) for chain in chains)
    reports: list[BlockReport] = []
    notes: list[str] = []
    placement = Placement.of(chains, options.device)
    with (
        torch.inference_mode(),
        options.progress.task(options.title, total) as advance,
    ):
        known = options.statistics
        if not method.calibrated or known is not None:
            for chain, block in _walk(chains):
                own = None if known is None else known.of(block)
                rate = rates[id(block)]
                reports.append(_prune_on_device(placement, chain, block, rate, method, own))
                advance(block.name)
            notes += () if known is None else known.notes
        else:
            if calibration is None or not calibration.batches:
                raise DataError(f"{method.name} takes statistics and needs calibration data")
            lockstep = Lockstep(calibration.forward, calibration.batches, chains, placement)
            # A block is pruned when all have reached it, or one later, when all have passed it.
            passed: Callable[[], BlockReport] | None = None
            with lockstep:
                for stop in lockstep:
                    statistics = BlockStatistics(stop.block, method)
                    rate = rates[id(stop.block)]
                    if rate > 0.0:
                        statistics.run(stop.calls, calibration.batch_samples, placement)
                    if passed is not None:
                        reports.append(passed())
                    at = (stop.chain, stop.block, rate)
                    if options.dense:
                        passed = partial(_prune_on_device, placement, *at, method, statistics)
                    else:
                        reports.append(prune_block(*at, method, statistics))
                        placement.keep(stop.block.module)
                    advance(stop.block.name)
            if passed is not None:
                reports.append(passed())
            notes += repeated_notes(lockstep)
    order = {(chain.name, block.name): i for i, (chain, block) in enumerate(_walk(chains))}
    reports.sort(key=lambda report: order[report.chain, report.name])
    return PruneReport(reports, time.perf_counter() - started, tuple(notes))


def _prune_on_device(
    placement: Placement,
    chain: Chain,
    block: Block,
    rate: float,
    method: Method,
    statistics: BlockStatistics | None,
) -> BlockReport:
    with placement.on_device(block.module):
        report = prune_block(chain, block, rate, method, statistics)
        placement.keep(block.module)
    return report


def prune_block(
    chain: Chain,
    block: Block,
    rate: float,
    method: Method,
    statistics: BlockStatistics | None,
) -> BlockReport:
    """Prune every weight of one block to `rate`, in place.

    Raises:
        NumericalError: a factorization fails, or the method returns values that are not finite.
    """
    zeros = seen = 0
    notes: list[str] = []
    for weight in block.weights:
        if rate == 0.0:
            continue
        # Whole numbers are cut, and what one weight's number leaves over goes to the next: each
        # stays within one of its rate, and the block within half of one.
        seen += weight.numel
        due = min(max(round(rate * seen) - zeros, 0), weight.numel)
        own = statistics.of(weight) if statistics is not None else None
        count, said = _prune_weight(block, weight, due / weight.numel, method, own)
        zeros += count
        notes += said
    return BlockReport(chain.name, block.name, rate, zeros, block.parameters, tuple(notes))


def _prune_weight(
    block: Block,
    weight: PrunableWeight,
    rate: float,
    method: Method,
    statistics: Statistics | None,
) -> tuple[int, list[str]]:
    view = weight.matrix()
    try:
        verdict = method.prune(view.float(), rate, statistics)
    except NumericalError as error:
        raise NumericalError(f"{weight.name} in block {block.name}: {error}") from error
    if verdict.weight is not None:
        if not bool(torch.isfinite(verdict.weight).all()):
            raise NumericalError(
                f"{method.name} computed values that are not finite for {weight.name} in block "
                f"{block.name}; use more calibration data, or --method wanda"
            )
        view.copy_(verdict.weight)
    _zero(view, verdict.mask)
    zeros = weight.numel - int(torch.count_nonzero(verdict.mask))
    return zeros, [f"{weight.name}: {note}" for note in verdict.notes]


def _zero(matrix: torch.Tensor, kept: torch.Tensor) -> None:
    """Set to zero what is not kept; NaN and infinities too, and to +0.

    The bits are multiplied by 0 or 1, which takes a tenth of the time of `masked_fill_`.
    """
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    matrix.view(integers[matrix.element_size()]).mul_(kept.view(torch.int8))


def _walk(chains: Sequence[Chain]) -> list[tuple[Chain, Block]]:
    return [(chain, block) for chain in chains for block in chain.blocks]
