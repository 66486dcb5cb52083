"""Calibration batches: sequences of tokens."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from atp_core.records import Calibration, DataRequest, LoadedModel

from ._inputs import batches_of, device_of, inputs_for
from ._text import corpus_for, spec_for
from ._windows import sample_windows, seqlen_for, tokenizer_of

__all__ = ["calibrate", "default_samples", "default_search_samples", "fingerprint"]


def default_samples(loaded: LoadedModel, data: DataRequest) -> int:
    """Calibration samples where none are asked for: 128 of hub text, as in Wanda, else 32."""
    spec = spec_for(loaded.source, data, "calibration")
    return 128 if spec in ("c4", "wikitext2") or spec.startswith("hf:") else 32


def default_search_samples(samples: int) -> int:
    """Windows of the search split where none are asked for, by the calibration samples."""
    return max(8, samples // 16)


def fingerprint(ids: torch.Tensor) -> str:
    """Hash of tokens and of the shape they are cut in."""
    head = f"{tuple(ids.shape)}:".encode()
    return hashlib.sha256(head + ids.contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


def calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Sequences from the calibration part of the text, and the forward call.

    A number of samples that was asked for is met exactly, but for `data.at_most`; the default
    takes what the text holds, down to 8, and says so.

    Raises:
        DataError: the text cannot be had, or is too little.
        ModelError: the model has no tokenizer.
    """
    tokenizer = tokenizer_of(loaded)
    seqlen = seqlen_for(loaded, data)
    corpus = corpus_for(loaded.source, data, "calibration")
    wanted = data.samples or default_samples(loaded, data)
    windows = sample_windows(
        tokenizer,
        corpus.documents,
        count=wanted,
        at_least=1 if data.at_most else data.samples or min(8, wanted),
        seqlen=seqlen,
        seed=data.seed,
        what=f"calibration ({corpus.name})",
        option="--samples",
    )
    found = len(windows.ids)
    if found < wanted and not data.at_most:
        loaded.progress.note(
            f"{corpus.name} gives {found} calibration samples of {seqlen} tokens, "
            f"not the usual {wanted}"
        )
    model = loaded.model
    parts = batches_of(windows.ids, data.batch_size)

    def forward(batch: dict[str, torch.Tensor]) -> Any:
        device = device_of(model)
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        return model(**moved, use_cache=False)

    return Calibration(
        batches=[inputs_for(model, part)[0] for part in parts],
        forward=forward,
        samples=found,
        unit=f"sequences of {seqlen} tokens",
        dataset=corpus.name,
        fingerprint=fingerprint(windows.ids),
        examples=windows.examples,
        batch_samples=[len(part) for part in parts],
    )
