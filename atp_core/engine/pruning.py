"""Pruning one located model to a schedule: calibrate and prune, block by block, in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..errors import DataError, NumericalError
from ..methods import Method, Statistics
from ..progress import NullProgress, Progress
from ..records import Block, Calibration, Chain, LoadedModel, PrunableWeight, Schedule
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
    """

    device: torch.device | None = None
    progress: Progress = field(default_factory=NullProgress)
    title: str = "pruning"


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
    are seen where they arise. Every batch runs every block twice, never more.

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
        if not method.calibrated:
            for chain in chains:
                for block in chain.blocks:
                    with placement.on_device(block.module):
                        reports.append(prune_block(chain, block, rates[id(block)], method, None))
                        placement.keep(block.module)
                    advance(block.name)
        else:
            if calibration is None or not calibration.batches:
                raise DataError(f"{method.name} takes statistics and needs calibration data")
            lockstep = Lockstep(calibration.forward, calibration.batches, chains, placement)
            with lockstep:
                for stop in lockstep:
                    statistics = BlockStatistics(stop.block, method)
                    rate = rates[id(stop.block)]
                    if rate > 0.0:
                        statistics.run(stop.calls, calibration.batch_samples, placement)
                    reports.append(prune_block(stop.chain, stop.block, rate, method, statistics))
                    placement.keep(stop.block.module)
                    advance(stop.block.name)
            notes += [
                f"{name} is called more than once in a forward; its statistics are those of the "
                "first call"
                for name in lockstep.repeated
            ]
    order = {(chain.name, block.name): i for i, (chain, block) in enumerate(_walk(chains))}
    reports.sort(key=lambda report: order[report.chain, report.name])
    return PruneReport(reports, time.perf_counter() - started, tuple(notes))


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
    drop = ~verdict.mask
    view.masked_fill_(drop, 0)
    return int(drop.sum()), [f"{weight.name}: {note}" for note in verdict.notes]


def _walk(chains: Sequence[Chain]) -> list[tuple[Chain, Block]]:
    return [(chain, block) for chain in chains for block in chain.blocks]
