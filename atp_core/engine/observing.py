"""Looking at the dense model on calibration data: input norms of weights, inputs of blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ModelError
from ..progress import Progress
from ..records import Calibration, Chain
from .dense import DenseStatistics
from .lockstep import Call, Lockstep
from .placement import Placement
from .statistics import ColumnNorms

__all__ = ["block_inputs", "input_norms"]

_ROWS = 1024
"""Rows kept of what enters a block: enough to compare blocks, little beside the weights."""

_Entered = tuple[list[int], list[torch.Tensor]]
"""What entered a block in each batch: how many rows, and those that are kept."""


class _Norms:
    """As far as statistics go, a method."""

    name = "norms"
    calibrated = True

    def statistics(self, in_features: int, device: torch.device) -> ColumnNorms:
        return ColumnNorms(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: object) -> object:
        raise NotImplementedError


def input_norms(
    chains: Sequence[Chain],
    calibration: Calibration,
    *,
    device: torch.device | None,
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """L2 norms of the input features of every weight, over all calibration tokens.

    Args:
        chains: the chains, dense.
        calibration: the data.
        device: where blocks run; None leaves them where they are.
        progress: shown one step a block.

    Returns:
        Weight name → shape (in_features,), float32, on the CPU. An expert that no token reached
        is left out.

    Raises:
        ModelError: the model cannot be driven block by block, or a weight is never used.
        NumericalError: activations are not finite.
    """
    taken = DenseStatistics.take(
        chains,
        _Norms(),  # type: ignore[arg-type]
        calibration,
        device=device,
        progress=progress,
    )
    norms: dict[str, torch.Tensor] = {}
    for chain in chains:
        for block in chain.blocks:
            for weight in block.weights:
                found = taken.of(block).of(weight)
                if found is not None:
                    assert isinstance(found, ColumnNorms)
                    norms[weight.name] = found.squares.sqrt().cpu()
    return norms


def block_inputs(
    chains: Sequence[Chain],
    calibration: Calibration,
    *,
    device: torch.device | None,
    progress: Progress,
) -> dict[str, list[torch.Tensor]]:
    """Some of what enters every block, with the same rows for all blocks of a chain.

    A row is a token where all blocks of the chain see as many; else it is a sample.

    Args:
        chains: the chains, dense.
        calibration: the data.
        device: where blocks run; None leaves them where they are.
        progress: shown one step a block.

    Returns:
        Chain name → a tensor a block, shape (rows, features), float32, on the CPU.

    Raises:
        ModelError: the model cannot be driven block by block, or a block gets no tensor.
    """
    seen: dict[str, list[_Entered]] = {chain.name: [] for chain in chains}
    total = sum(len(chain.blocks) for chain in chains)
    placement = Placement.of(chains, device)
    # Evenly from all batches.
    share = max(1, _ROWS // max(1, len(calibration.batches)))
    with torch.inference_mode(), progress.task("looking at the inputs of blocks", total) as advance:
        lockstep = Lockstep(calibration.forward, calibration.batches, chains, placement)
        with lockstep:
            for stop in lockstep:
                entered = [_rows(_first_tensor(call, stop.block.name)) for call in stop.calls]
                counts = [rows.shape[0] for rows in entered]
                seen[stop.chain.name].append((counts, [_thinned(x, share) for x in entered]))
                advance(stop.block.name)
    return {chain: _aligned(blocks) for chain, blocks in seen.items()}


def _first_tensor(call: Call, block: str) -> torch.Tensor:
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise ModelError(f"block {block} is called without a tensor of activations")


def _rows(inputs: torch.Tensor) -> torch.Tensor:
    """A row a token; of images (4-D), whose layout is not known, a row a sample."""
    return inputs.flatten(1) if inputs.dim() > 3 else inputs.reshape(-1, inputs.shape[-1])


def _thinned(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many rows, evenly spaced."""
    if rows.shape[0] > most:
        rows = rows[torch.linspace(0, rows.shape[0] - 1, most).long().to(rows.device)]
    return rows.float().cpu()


def _aligned(blocks: Sequence[_Entered]) -> list[torch.Tensor]:
    """A tensor a block; where blocks see different numbers of rows, a row a batch."""
    if all(counts == blocks[0][0] for counts, _ in blocks):
        return [torch.cat(batches) for _, batches in blocks]
    return [torch.stack([batch.mean(0) for batch in batches]) for _, batches in blocks]
