"""Calibration: the batches, and the forward call that reaches every block."""

from __future__ import annotations

import torch
from atp_core.records import Calibration, DataRequest, LoadedModel

from ._data import part_for
from ._encode import Batch, batches, run

__all__ = ["calibrate"]


def calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """The calibration part of the sentences, in batches.

    Raises:
        DataError: a file cannot be read, or there are too few sentences.
        ModelError: the model came without a tokenizer.
    """
    part = part_for(loaded, data, "calibration")
    made = batches(loaded, part.sentences, data.batch_size)

    def forward(batch: Batch) -> torch.Tensor:
        return run(loaded, batch)

    return Calibration(
        batches=made,
        forward=forward,
        samples=len(part.sentences),
        unit="sentences",
        dataset=part.name,
        fingerprint=part.fingerprint,
        examples=frozenset(part.identities),
        batch_samples=[len(batch.rows) for batch in made],
    )
