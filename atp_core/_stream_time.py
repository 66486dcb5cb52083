"""What a streamed run takes beside matrix products: reading, writing, and choosing weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from ._session import Session
from .methods import Method
from .records import Chain, LoadedModel

__all__ = ["streaming_seconds"]

_READ: Final = 1 << 26
"""Bytes read to measure the disk."""

_ASSUMED: Final = 5e8
"""Bytes a second where nothing can be read yet."""


def streaming_seconds(
    session: Session, loaded: LoadedModel, chains: Sequence[Chain], method: Method, trials: int
) -> float:
    """Seconds for reading and writing weights and for choosing those to cut, on this machine.

    Args:
        session: the run.
        loaded: the model.
        chains: the chains that are pruned.
        method: the pruning method.
        trials: of the search, at most.
    """
    size = sum(one.numel() * one.element_size() for one in loaded.model.parameters())
    final = 2 if trials else 1
    prunings = trials + final + (1 if session.recipe.baseline else 0)
    evaluations = trials + final + (3 if session.recipe.baseline else 2)
    # A pruning reads all and writes all; the output is written and flushed once more.
    moved = size * (2 * prunings + evaluations + 1)
    return moved / _disk_rate(session.source.path) + prunings * _choosing(chains, method)


def _disk_rate(path: Path | None) -> float:
    """Bytes a second, measured now on the source's own weights."""
    files = sorted(path.glob("*.safetensors")) if path is not None and path.is_dir() else []
    if not files:
        return _ASSUMED
    started = time.perf_counter()
    with files[-1].open("rb", buffering=0) as file:
        count = len(file.read(_READ))
    return count / max(time.perf_counter() - started, 1e-6)


def _choosing(chains: Sequence[Chain], method: Method) -> float:
    """Seconds a pruning takes to choose weights, from a matrix of a size quickly done."""
    out_features = in_features = 1024
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator)
    statistics: Any = method.statistics(in_features, torch.device("cpu"))
    square = False
    if statistics is not None:
        statistics.add(torch.randn(64, in_features, generator=generator), 1)
        held = (value for value in vars(statistics).values() if isinstance(value, torch.Tensor))
        square = any(value.numel() >= in_features**2 for value in held)
    started = time.perf_counter()
    method.prune(weight, 0.5, statistics)
    each = (time.perf_counter() - started) / weight.numel()
    return sum(
        # Factorizing a matrix of the inputs, and updating by it, grows with their number too.
        each * weight.numel * (weight.shape[1] / in_features if square else 1.0)
        for chain in chains
        for block in chain.blocks
        for weight in block.weights
    )
