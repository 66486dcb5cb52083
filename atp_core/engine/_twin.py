"""A model that is being pruned, and its dense twin, in lockstep from block to block."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..methods import Method
from ..records import Block, Calibration, Chain
from .lockstep import Call, Lockstep, Stop
from .observation import BlockStatistics
from .placement import Placement

__all__ = ["Pair", "distance", "outputs", "pairs", "squared_norm"]


@dataclass
class Pair:
    """Both models stand before the same block, which is still dense.

    Attributes:
        stop: where the pruned model stands; its calls carry the errors of the blocks before.
        calls: what the dense model called the block with, one entry a batch.
        wanted: the dense outputs, one tensor a batch.
        statistics: those the method asks for, on the calls of the pruned or of the dense model.
    """

    stop: Stop
    calls: list[Call]
    wanted: list[torch.Tensor]
    statistics: BlockStatistics

    def drop(self) -> None:
        """Let go of the dense activations, so that they do not lie beside those of the next."""
        self.calls.clear()
        self.wanted.clear()


class _Following(Placement):
    """The placement of the twin: the other forward moves the blocks, which both run."""

    def __init__(self, leader: Placement) -> None:
        super().__init__(leader.device, leader.home)
        self.moves = leader.moves
        # Activations wait where those of the other forward do.
        self.park = leader.park  # type: ignore[method-assign]
        self.to_device = leader.to_device  # type: ignore[method-assign]

    @contextmanager
    def on_device(self, module: nn.Module) -> Iterator[None]:
        """Leave `module` where the other forward has put it."""
        yield


def pairs(
    chains: Sequence[Chain],
    method: Method,
    calibration: Calibration,
    placement: Placement,
    *,
    dense_inputs: bool = False,
) -> Generator[Pair]:
    """Stop at every block, in order of execution; what the caller leaves in it is what goes on.

    Only the pruned model is changed: by the time a block is handed out, its twin has run it.
    Close the generator where the blocks are not all visited.

    Args:
        chains: the chains, dense.
        method: says which statistics to take.
        calibration: what runs through both models.
        placement: where blocks run.
        dense_inputs: take statistics on the calls of the dense model.

    Raises:
        ModelError: the model cannot be driven block by block.
    """
    batches = calibration.batches
    with ExitStack() as stack:
        dense = Lockstep(calibration.forward, batches, chains, _Following(placement))
        sparse = Lockstep(calibration.forward, batches, chains, placement)
        twins = iter(stack.enter_context(dense))
        twin = next(twins)
        for stop in stack.enter_context(sparse):
            calls = list(twin.calls)
            wanted = outputs(stop.block, calls, placement)
            statistics = BlockStatistics(stop.block, method)
            if method.calibrated:
                seen = calls if dense_inputs else stop.calls
                statistics.run(seen, calibration.batch_samples, placement)
            # The twin runs the block while it is still dense, and still on the device.
            twin = next(twins, twin)
            yield Pair(stop, calls, wanted, statistics)


def outputs(block: Block, calls: Sequence[Call], placement: Placement) -> list[torch.Tensor]:
    """What the block gives for each batch: its first tensor, on the device."""
    found = []
    for call in calls:
        args, kwargs = placement.to_device((call.args, call.kwargs))
        output: Any = block.module(*args, **kwargs)
        found.append(output if isinstance(output, torch.Tensor) else output[0])
    return found


def distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Squared Frobenius norm of the difference, in float64."""
    return sum(
        float((y.double() - z.double()).pow(2).sum()) for y, z in zip(found, wanted, strict=True)
    )


def squared_norm(found: Sequence[torch.Tensor]) -> float:
    """Squared Frobenius norm, in float64."""
    return sum(float(y.double().pow(2).sum()) for y in found)
