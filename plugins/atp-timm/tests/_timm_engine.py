"""Driving the engine on a model and one batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from atp_core.engine.pruning import PruneOptions, PruneReport, prune_model
from atp_core.methods.magnitude import Magnitude
from atp_core.methods.wanda import Wanda
from atp_core.records import Calibration, Chain, LoadedModel, Schedule, Source

__all__ = ["Rows", "calibration_of", "prune", "schedule_of"]


class Rows:
    """A method that keeps every input row it is given, and prunes nothing."""

    name = "rows"
    calibrated = True

    def statistics(self, in_features: int, device: torch.device) -> Any:
        return _Kept()


class _Kept:
    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        self.rows.append(inputs.clone())

    def finite(self) -> bool:
        return True


def calibration_of(model: Any, batches: Sequence[torch.Tensor]) -> Calibration:
    """Calibration on given batches of pixels."""
    sizes = [len(batch) for batch in batches]
    return Calibration(
        batches=batches,
        forward=model,
        samples=sum(sizes),
        unit="images",
        dataset="random",
        fingerprint="0",
        examples=frozenset(),
        batch_samples=sizes,
    )


def schedule_of(chains: Sequence[Chain], rate: float) -> Schedule:
    """The same rate everywhere."""
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    return Schedule(rates, rate, "uniform")


def prune(
    model: Any, chains: Sequence[Chain], rate: float, images: torch.Tensor | None = None
) -> PruneReport:
    """Prune `model` with Wanda on `images`, or by magnitude where there are none."""
    return prune_model(
        LoadedModel(model, Source("random weights")),
        chains,
        schedule_of(chains, rate),
        Magnitude() if images is None else Wanda(),
        None if images is None else calibration_of(model, [images]),
        PruneOptions(),
    )
