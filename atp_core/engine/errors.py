"""The reconstruction error of every block of a model that is pruned to a schedule.

The error of block i is L_i = ‖Y_i − Ỹ_i‖²_F (Eq. 1 of the ATP paper, Huang et al., ICML 2025):
Y_i is what the dense block gives for dense inputs, Ỹ_i what the pruned block gives for what the
pruned blocks before it hand on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..errors import DataError, NumericalError
from ..methods import Method
from ..progress import Progress
from ..records import Calibration, Chain, Schedule
from ._twin import distance, outputs, pairs, squared_norm
from .placement import Placement
from .pruning import prune_block
from .snapshot import Snapshot

__all__ = ["BlockError", "measure_errors"]


@dataclass(frozen=True)
class BlockError:
    """The error at the output of one block, over all calibration samples.

    Attributes:
        chain: name of the chain.
        name: name of the block.
        rate: the rate it was pruned to.
        error: squared Frobenius norm of the difference from the dense output: L_i.
        norm: squared Frobenius norm of the dense output.
    """

    chain: str
    name: str
    rate: float
    error: float
    norm: float

    @property
    def relative(self) -> float:
        """The error as a share of the squared dense output; NaN where that is 0."""
        return self.error / self.norm if self.norm > 0 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready data."""
        return {**asdict(self), "relative": self.relative}


def measure_errors(
    chains: Sequence[Chain],
    schedule: Schedule,
    method: Method,
    calibration: Calibration,
    *,
    device: torch.device | None,
    progress: Progress,
    dense_inputs: bool = False,
) -> list[BlockError]:
    """Prune block by block and compare with a dense twin; the weights are left as they were.

    Every block is pruned as `atp_core.engine.pruning.prune_model` does it: with statistics that
    were taken with the blocks before it already pruned, or still dense.

    Args:
        chains: the chains, dense.
        schedule: the rates.
        method: what chooses the weights.
        calibration: what runs through both models.
        device: where blocks run; None leaves them where they are.
        progress: shown one step a block.
        dense_inputs: take statistics on what enters the blocks of the dense model.

    Returns:
        An error a block, in the order of `chains`.

    Raises:
        UsageError: the schedule was made for another model.
        DataError: there are no calibration batches.
        ModelError: the model cannot be driven block by block.
        NumericalError: weights or activations are not finite, or a factorization fails.
    """
    if not calibration.batches:
        raise DataError("errors are measured on calibration data, and there is none")
    rates = {
        (chain.name, block.name): rate
        for chain in chains
        for block, rate in zip(chain.blocks, schedule.of(chain), strict=True)
    }
    placement = Placement.of(chains, device)
    found: dict[tuple[str, str], BlockError] = {}
    pristine = Snapshot(chains)
    try:
        with (
            torch.inference_mode(),
            progress.task(f"measuring errors ({schedule.allocation})", len(rates)) as advance,
            closing(
                pairs(chains, method, calibration, placement, dense_inputs=dense_inputs)
            ) as stops,
        ):
            for pair in stops:
                chain, block = pair.stop.chain, pair.stop.block
                key = (chain.name, block.name)
                pristine.stale = True
                prune_block(chain, block, rates[key], method, pair.statistics)
                error = distance(outputs(block, pair.stop.calls, placement), pair.wanted)
                norm = squared_norm(pair.wanted)
                if not (math.isfinite(error) and math.isfinite(norm)):
                    raise NumericalError(
                        f"the outputs of block {block.name} are not finite, dense or pruned; "
                        "load the model in float32 (--dtype float32)"
                    )
                found[key] = BlockError(*key, rates[key], error, norm)
                pair.drop()
                advance(block.name)
    finally:
        pristine.restore()
    return [found[key] for key in rates]
