"""Statistics of all blocks of the dense model, for methods that need little of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..methods import Method
from ..progress import Progress
from ..records import Block, Calibration, Chain
from .lockstep import Lockstep
from .observation import BlockStatistics
from .placement import Placement

__all__ = ["DenseStatistics", "repeated_notes"]


class DenseStatistics:
    """What every block's weights see while the model is dense.

    Args:
        blocks: block name → its statistics.
        notes: what a user must know.
    """

    def __init__(self, blocks: Mapping[str, BlockStatistics], notes: Sequence[str] = ()) -> None:
        self._blocks = blocks
        self.notes = tuple(notes)

    def of(self, block: Block) -> BlockStatistics:
        """The statistics of a block's weights."""
        return self._blocks[block.name]

    @classmethod
    def take(
        cls,
        chains: Sequence[Chain],
        method: Method,
        calibration: Calibration,
        *,
        device: torch.device | None,
        progress: Progress,
    ) -> DenseStatistics:
        """Run the dense model once, block by block with taps on.

        Args:
            chains: the chains, dense.
            method: settles what is accumulated.
            calibration: the data.
            device: where blocks run; None leaves them where they are.
            progress: shown one step a block.

        Raises:
            ModelError: the model cannot be driven block by block, or a weight is never used.
            NumericalError: activations are not finite.
        """
        placement = Placement.of(chains, device)
        blocks: dict[str, BlockStatistics] = {}
        total = sum(len(chain.blocks) for chain in chains)
        with torch.inference_mode(), progress.task("statistics of the dense model", total) as done:
            lockstep = Lockstep(calibration.forward, calibration.batches, chains, placement)
            with lockstep:
                for stop in lockstep:
                    seen = blocks[stop.block.name] = BlockStatistics(stop.block, method)
                    seen.run(stop.calls, calibration.batch_samples, placement)
                    done(stop.block.name)
        return cls(blocks, repeated_notes(lockstep))


def repeated_notes(lockstep: Lockstep) -> list[str]:
    """A note for each block whose statistics are not those of all its calls."""
    return [
        f"{name} is called more than once in a forward; its statistics are those of the first call"
        for name in lockstep.repeated
    ]
