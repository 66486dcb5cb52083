"""Up to how many rows of input a sparse kernel is faster than the dense product, measured."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F

from ._library import cache_directory, kernels
from ._weight import PackedWeight

__all__ = ["Choice", "choose"]

ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# A kernel is taken where it wins by more than measurements scatter.
_MARGIN: Final = 0.97
_COSTLY: Final = 1.05
_ROUNDS: Final = 9
_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Choice:
    """What suits one kind of layer.

    Attributes:
        most: rows up to which the sparse kernel wins, 0 for none; None for all that were tried.
        keep_dense: whether making the weight dense for a call costs more than 5 % above that.
    """

    most: int | None
    keep_dense: bool


def choose(weight: torch.Tensor, packed: PackedWeight) -> Choice:
    """Measure, or look up what was measured on this machine for such a layer.

    Args:
        weight: dense, shape (out_features, in_features).
        packed: the same.
    """
    zeros = 1.0 - int(torch.count_nonzero(weight)) / weight.numel()
    # Layers of about the same sparsity share a measurement.
    key = "/".join(
        str(part)
        for part in (
            kernels().key, _processor(), torch.__version__, torch.get_num_threads(), packed.kernel,
            weight.dtype, *weight.shape, round(zeros * 20) / 20,
        )
    )  # fmt: skip
    known = _read()
    if key not in known:
        known[key] = _measure(weight, packed)
        _write(known)
    return known[key]


def _measure(weight: torch.Tensor, packed: PackedWeight) -> Choice:
    most = 0
    for rows in ROWS:
        x = torch.randn(rows, weight.shape[1]).to(weight.dtype)
        dense = partial(F.linear, x, weight)
        if _ratio(partial(packed.product, x, None), dense) > _MARGIN:
            return Choice(most, _ratio(partial(_unpacking, x, packed), dense) > _COSTLY)
        most = rows
    return Choice(None, False)


def _unpacking(x: torch.Tensor, packed: PackedWeight) -> torch.Tensor:
    return F.linear(x, packed.dense())


def _ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """Median of paired ratios of the times of two calls, in turn."""
    with torch.inference_mode():
        once = _seconds(one, 1) + _seconds(other, 1)
        calls = max(1, int(_SECONDS / _ROUNDS / max(once, 1e-7)))
        ratios = [_seconds(one, calls) / _seconds(other, calls) for _ in range(_ROUNDS)]
    return statistics.median(ratios)


def _seconds(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - started


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    told = [line.partition(":")[2].strip() for line in lines if line.startswith("model")]
    return " ".join(told[:2])


def _file() -> Path:
    return cache_directory() / "choices.json"


def _read() -> dict[str, Choice]:
    try:
        found = json.loads(_file().read_text("utf-8"))
        return {key: Choice(**value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # measured anew


def _write(known: dict[str, Choice]) -> None:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=_file().parent)
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump({key: asdict(choice) for key, choice in known.items()}, opened, indent=1)
        Path(name).replace(_file())
    except OSError:
        return  # a cache that cannot be kept costs a measurement the next time
