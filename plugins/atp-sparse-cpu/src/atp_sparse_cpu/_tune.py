"""Measuring which way is fastest for a layer, for few tokens and for many.

All ways of a bucket are timed in turn, so that what else the machine does meets all of them, and
medians of paired ratios are taken. Weights are rotated through as many copies as the whole model
has bytes: a layer that alone fits the cache would look faster than it is in its model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._linear import SparseLinear
from ._measured import Ratios, recall, remember
from ._packed import Packed, pack
from ._plan import BUCKETS, Path, Plan, ways_for

__all__ = ["TOLERANCE", "Choice", "choose", "measure"]

TOLERANCE = 0.98
"""A way with at least this much of the dense layer's speed counts as no slower.

Nearer than the 5 % that are promised, as measuring is off by some per cent itself.
"""

_SURE = 1.05
"""What a way must gain over a dense weight that is in memory anyway."""

_SECONDS = 0.02  # for one way of one bucket
_LEAST, _MOST = 5, 25  # rounds
_COLD_BYTES = 96 << 20
# Enough to judge products with many tokens by: at least these rows, and all of a small layer.
_FEW_ROWS, _FEW_WEIGHTS = 1024, 1 << 22
_WIDE = 8  # tokens; buckets above are judged by both of their ends
_MANY_TOKENS = 1024  # what stands for the end of the last bucket


@dataclass(frozen=True)
class Choice:
    """What was decided for a layer.

    Attributes:
        plan: the way of each bucket, or None to leave it dense.
        speedups: of each bucket's way; empty where nothing was measured.
        reason: in words.
    """

    plan: Plan | None
    speedups: tuple[float, ...]
    reason: str


def choose(ratios: Ratios, *, keep_dense: bool) -> Choice:
    """Decide from measured ratios.

    Args:
        ratios: for each bucket, the speed of each way relative to the dense layer.
        keep_dense: whether the dense weight may stay in memory for buckets in which no packed way
            comes within `TOLERANCE` of it.
    """
    best = [max(ways.items(), key=lambda item: item[1]) for ways in ratios]
    fastest = max(ratio for _, ratio in best)
    if fastest <= 1:
        return Choice(None, (), f"dense is faster: packed {fastest:.2f}x at best")
    kept_anyway = keep_dense and min(ratio for _, ratio in best) < TOLERANCE
    plan: list[int] = []
    speedups: list[float] = []
    for name, ratio in best:
        # Where the dense weight is in memory, using it costs nothing more, and is never slower.
        slow = kept_anyway and ratio <= _SURE
        plan.append(int(Path.DENSE if slow else Path[name]))
        speedups.append(1.0 if slow else ratio)
    kept = ", dense kept for some" if Path.DENSE in plan else ""
    return Choice(tuple(plan), tuple(speedups), f"packed{kept}: {fastest:.2f}x at best")


def measure(weight: Tensor, packed: Packed, *, model_bytes: int) -> Ratios:
    """Speed of every way for a weight, from the cache where one like it was measured before.

    Args:
        weight: dense, [out_features, in_features].
        packed: the same.
        model_bytes: of all dense weights that are read between two readings of this one.
    """
    stored, threads = packed.values.dtype, torch.get_num_threads()
    zeros = 1 - int(packed.offsets[-1]) / max(weight.numel(), 1)
    spread = min(model_bytes, _COLD_BYTES)
    key = (
        f"{weight.shape[0]}x{weight.shape[1]} {weight.dtype} {stored} "
        f"s{round(zeros * 20) / 20:.2f} t{threads} w{max(spread, 1).bit_length()}"
    )
    if (known := recall(key, len(BUCKETS))) is not None:
        return known
    with torch.inference_mode():
        ratios = _measure(weight.detach(), packed, spread, threads)
    remember(key, ratios)
    return ratios


def _measure(weight: Tensor, packed: Packed, spread: int, threads: int) -> Ratios:
    int8 = packed.values.dtype == torch.int8
    rows = max(_FEW_ROWS, _FEW_WEIGHTS // max(weight.shape[1], 1))
    few = weight[:rows].contiguous()
    full = _Copies(weight, packed, spread)
    part = full if len(few) == len(weight) else _Copies(few, pack(few, int8=int8), spread)
    # The clock of a thread leaves out the time that other programs take.
    clock = time.thread_time if threads == 1 else time.perf_counter
    found: Ratios = []
    # With tiles the gain still goes down beyond the largest bucket's size, and what is taken there
    # is slow if it is wrong. So its end is measured at two moments, first and last.
    tiles = Path.AMX in ways_for(packed.values.dtype, _MANY_TOKENS)
    first = _race(part, _MANY_TOKENS, clock) if tiles else {}
    for low, top in zip((0, *BUCKETS), BUCKETS, strict=False):
        copies = part if top >= 32 else full
        ratios = _race(copies, top, clock)
        if top > _WIDE:
            # Kernels work on so many tokens at a time, and may waste most of it on one more.
            ends = [_race(copies, low + 1, clock)]
            if tiles and top == BUCKETS[-1]:
                ends += [first, _race(copies, _MANY_TOKENS, clock)]
            for end in ends:
                ratios = {name: min(one, end.get(name, one)) for name, one in ratios.items()}
        found.append(ratios)
    return found


class _Copies:
    """A weight in several places, dense and packed."""

    def __init__(self, weight: Tensor, packed: Packed, spread: int) -> None:
        dense = max(1, -(-spread // max(weight.nbytes, 1)))
        smaller = max(1, round(dense * weight.nbytes / max(packed.bytes, 1)))
        # A packed model that outgrows the cache needs more copies to do so.
        sparse = dense if spread < _COLD_BYTES else min(smaller, 4 * dense)
        self.dense = [_linear(weight)]
        self.dense += [_linear(weight.clone()) for _ in range(min(dense, 512) - 1)]
        self.packed = [packed] + [_clone(packed) for _ in range(min(sparse, 512) - 1)]
        self.stored, self.dtype = packed.values.dtype, weight.dtype

    def sparse(self, way: Path) -> list[SparseLinear]:
        """Layers that take one way whatever the number of tokens."""
        plan = (int(way),) * len(BUCKETS)
        return [SparseLinear(packed, None, self.dtype, plan) for packed in self.packed]


def _linear(weight: Tensor) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _clone(packed: Packed) -> Packed:
    scales = packed.scales.clone() if packed.scales is not None else None
    return Packed(
        packed.masks.clone(),
        packed.values.clone(),
        packed.offsets.clone(),
        scales,
        packed.rows,
        packed.columns,
    )


def _race(copies: _Copies, tokens: int, clock: Callable[[], float]) -> dict[str, float]:
    x = torch.randn(tokens, copies.dense[0].in_features).to(copies.dtype)

    def dense(turn: int) -> None:
        copies.dense[turn % len(copies.dense)](x)

    # Whole layers: for small ones, what Python does around the product counts.
    def run(way: Path) -> Callable[[int], None]:
        layers = copies.sparse(way)

        def packed(turn: int) -> None:
            layers[turn % len(layers)](x)

        return packed

    runs = {way.name: run(way) for way in ways_for(copies.stored, tokens)}
    dense(0)
    for packed_run in runs.values():
        packed_run(0)  # what a first call sets up is not the layer's time
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    spent = 0.0
    for turn in range(1, _MOST + 1):
        own = _timed(dense, turn, clock)
        spent += own
        for name, packed_run in runs.items():
            took = _timed(packed_run, turn, clock)
            spent += took
            ratios[name].append(own / max(took, 1e-9))
        if turn == 1:
            # What is far behind takes time and no longer matters.
            lead = max(found[0] for found in ratios.values())
            runs = {name: each for name, each in runs.items() if ratios[name][0] > lead / 2}
        if turn >= _LEAST and spent > _SECONDS * (1 + len(runs)):
            break
    return {name: float(statistics.median(found)) for name, found in ratios.items()}


def _timed(run: Callable[[int], None], turn: int, clock: Callable[[], float]) -> float:
    begin = clock()
    run(turn)
    return max(clock() - begin, 1e-9)
