"""Statistics of one block's weights: who shares an accumulator, and who got nothing."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch

from ..errors import ModelError, NumericalError
from ..methods import Method, Statistics
from ..records import Block, PrunableWeight
from .lockstep import Call
from .placement import Placement
from .taps import WeightTap

__all__ = ["BlockStatistics"]


class BlockStatistics:
    """Accumulates, over all batches, what `method` wants to know of a block's inputs.

    Weights that see the very same rows (query, key and value projections) share one accumulator,
    found out in the first batch and relied on in the others.
    """

    def __init__(self, block: Block, method: Method) -> None:
        self._block = block
        self._method = method
        self._leader: dict[str, str] = {}
        self._statistics: dict[str, Statistics] = {}
        self._seen: dict[tuple[int, ...], str] = {}
        self._events: Counter[str] = Counter()
        self._sequences = 1

    def run(self, calls: Sequence[Call], sizes: Sequence[int], placement: Placement) -> None:
        """Run the block on every batch's inputs with taps on.

        Args:
            calls: the batches' arguments.
            sizes: samples in each batch.
            placement: where the block is.

        Raises:
            ModelError: the block raises, or a weight is never used.
            NumericalError: activations are not finite.
        """
        for call, size in zip(calls, sizes, strict=True):
            self._seen.clear()
            self._sequences = size
            args, kwargs = placement.to_device((call.args, call.kwargs))
            try:
                with WeightTap(self._block.weights, self._observe):
                    self._block.module(*args, **kwargs)
            except (ModelError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise ModelError(
                    f"block {self._block.name} failed on calibration data: "
                    f"{type(error).__name__}: {error}"
                ) from error
        self._check()

    def of(self, weight: PrunableWeight) -> Statistics | None:
        """What was accumulated for `weight`; None for an expert that nothing was routed to."""
        leader = self._leader.get(weight.name)
        return None if leader is None else self._statistics[leader]

    def _observe(
        self, weight: PrunableWeight, rows: torch.Tensor, identity: tuple[int, ...]
    ) -> None:
        first = self._seen.setdefault(identity, weight.name)
        leader = self._leader.setdefault(weight.name, first)
        seen, self._events[weight.name] = self._events[weight.name], self._events[weight.name] + 1
        if leader != weight.name:
            if leader == first:
                return
            # From here on the two differ (a key projection that also sees the encoder). What was
            # accumulated belongs to both only if both have seen all of it.
            if self._events[leader] != seen:
                raise ModelError(
                    f"{weight.name} and {leader} shared their inputs in one batch and not in "
                    "another; a block like this cannot be calibrated"
                )
            self._leader[weight.name] = weight.name
            self._statistics[weight.name] = copy.deepcopy(self._statistics[leader])
        statistics = self._statistics.get(weight.name)
        if statistics is None:
            made = self._method.statistics(rows.shape[-1], rows.device)
            assert made is not None, "a calibrated method gives statistics"
            statistics = self._statistics[weight.name] = made
        statistics.add(rows.float(), self._sequences)

    def _check(self) -> None:
        for weight in self._block.weights:
            statistics = self.of(weight)
            if statistics is None:
                if weight.conditional:
                    continue
                raise ModelError(
                    f"no product with {weight.name} was seen when block {self._block.name} ran: "
                    "it is unused, or copied or cast before use; the plugin should not locate it"
                )
            if not statistics.finite():
                raise NumericalError(
                    f"activations that enter {weight.name} in block {self._block.name} are not "
                    "finite; try --dtype float32, or other calibration data"
                )
