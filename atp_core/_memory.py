"""How much memory a run takes whose weights are streamed, and what it may hold at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil
import torch
from torch import nn

from .errors import UsageError
from .methods import Method
from .records import Chain

__all__ = ["MemoryNeed", "Room", "memory_need", "room_for"]

_LATER: Final = 150_000_000
"""Bytes of what is imported and kept later on: data, figures, buffers of the math libraries."""

_KEPT: Final = 1 << 28
"""Bytes of outputs of the dense model that a plugin may keep, to compare the pruned one with."""

_SCORED: Final = 26
"""Bytes a weight of the matrix that is pruned: it and its scores in float32, what the selection of
the lowest scores copies, with their places, and masks. Measured on Wanda, DSnoT and magnitude;
methods that take more say so."""

_DERIVED: Final = 4
"""Times the statistics of the matrix that is pruned: what is derived from them, such as the factors
of SparseGPT's Hessian and the copies on the way there. Measured on SparseGPT."""


@dataclass(frozen=True)
class MemoryNeed:
    """What a streamed run holds in memory at its peak, in bytes.

    Attributes:
        parts: what for → bytes, the activations left out.
        activations: of all calibration samples, as they wait between two blocks.
        batch: of one batch.
    """

    parts: Mapping[str, int]
    activations: int
    batch: int

    @property
    def least(self) -> int:
        """With activations on disk, but for those at hand."""
        return sum(self.parts.values()) + 3 * self.batch

    @property
    def most(self) -> int:
        """With all activations in memory."""
        return self.least + self.activations

    def told(self) -> str:
        """The parts, for the user, largest first."""
        parts = {**self.parts, "activations at hand": 3 * self.batch}
        ordered = sorted(parts.items(), key=lambda one: -one[1])
        return ", ".join(f"{what} {size_text(size)}" for what, size in ordered if size)


@dataclass(frozen=True)
class Room:
    """How the activations are held.

    Attributes:
        on_disk: they wait in files.
        room: bytes of activations that an evaluation may hold at once; None is no limit.
        peak: estimate of the peak resident size.
    """

    on_disk: bool
    room: int | None
    peak: int


def size_text(size: int) -> str:
    """A size for the user."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6)):
        if size >= bytes_ / 10:
            return f"{size / bytes_:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{size / 1e3:.1f} kB"


def memory_need(
    model: nn.Module,
    chains: Sequence[Chain],
    method: Method,
    *,
    samples: int | None,
    seqlen: int | None,
    batch_size: int,
    compares: bool,
) -> MemoryNeed:
    """What pruning and measuring a streamed model takes.

    Args:
        model: on the meta device, or streamed.
        chains: all its chains.
        method: the pruning method.
        samples: calibration samples; None or 0 where there are none.
        seqlen: tokens a sample; None where that is not known, so that activations count nothing.
        batch_size: samples that go through the model at once.
        compares: the outputs of the dense model are kept.
    """
    inside = {id(one) for chain in chains for block in chain.blocks for one in _all(block.module)}
    block = max(_bytes(_all(block.module)) for chain in chains for block in chain.blocks)
    outside = [
        (module, own)
        for module in model.modules()
        if (own := [one for one in module.parameters(False) if id(one) not in inside])
    ]
    large, widest = 0, 0
    for _, own in outside:
        size = _bytes(own)
        if size > large:
            large, widest = size, max(max(one.shape) for one in own)
    weights = [weight for chain in chains for block in chain.blocks for weight in block.weights]
    item = next(model.parameters()).element_size()
    tokens = batch_size * (seqlen or 0)
    width = weights[0].shape[1]
    statistics = _statistics(chains, method) if samples else 0
    # In turn: running a block on a batch, pruning a weight, the outputs of an evaluation.
    longest = max(max(weight.shape) for weight in weights)
    running = tokens * longest * (4 * item + 4)
    scored = getattr(method, "work_bytes", _SCORED)
    pruning = max(
        scored * weight.numel + (_DERIVED * _of(method, weight.shape[1]) if samples else 0)
        for weight in weights
    )
    outputs = 2 * tokens * widest * item + 16 * min(tokens * widest, 1 << 24) - statistics
    parts = {
        "Python and its libraries": psutil.Process().memory_info().rss + _LATER,
        "the largest block": block,
        "the largest part outside blocks": large,
        "statistics": statistics,
        "work on a weight or batch": max(running, pruning, outputs),
        "outputs kept for comparison": _KEPT if compares else 0,
    }
    batch = tokens * width * item
    total = (samples or 0) * (seqlen or 0) * width * item
    # Beside what enters a block a batch holds its rotations, about a head wide, and its mask.
    return MemoryNeed(parts, int(1.1 * total), batch)


def room_for(need: MemoryNeed, limit: int) -> Room:
    """How to hold activations within `limit` bytes.

    Raises:
        UsageError: not even with all activations on disk.
    """
    if need.least > limit:
        raise UsageError(
            f"--max-memory {size_text(limit)} is too little: this run takes at least "
            f"{size_text(need.least)} ({need.told()}). A shorter --seqlen and a smaller "
            "--batch-size lower it, as do --method magnitude and --method wanda against methods "
            "that keep matrices"
        )
    if need.most > limit:
        return Room(True, None, need.least)
    return Room(False, max(limit - need.least, need.batch), need.most)


def _all(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in {id(t): t for t in tensors}.values())


def _statistics(chains: Sequence[Chain], method: Method) -> int:
    """Bytes of the statistics of the block that has most; as if no two weights shared any."""
    return max(
        sum(_of(method, weight.shape[1]) for weight in block.weights)
        for chain in chains
        for block in chain.blocks
    )


def _of(method: Method, in_features: int) -> int:
    made: Any = method.statistics(in_features, torch.device("meta"))
    if made is None:
        return 0
    return sum(
        value.numel() * value.element_size()
        for value in vars(made).values()
        if isinstance(value, torch.Tensor)
    )
