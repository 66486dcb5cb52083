"""Pruning methods: how weights inside a block are chosen at a given rate.

A method sees one 2-D weight at a time, as float32, with the statistics it asked for. It knows
nothing of architectures, blocks or schedules. Each lives in a file of its own and is offered
through `atp_methods`, exactly as a third party's would be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = ["Method", "Pruned", "Statistics"]


@runtime_checkable
class Statistics(Protocol):
    """What a method wants to know of a weight's inputs, accumulated batch by batch."""

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        """Take in one batch.

        Args:
            inputs: the rows that multiply the weight, shape (tokens, in_features), float32.
            sequences: number of calibration samples the rows came from.
        """

    @property
    def tokens(self) -> int:
        """Rows seen so far; 0 for an expert that no token was routed to."""

    def finite(self) -> bool:
        """Whether everything accumulated is finite."""


@dataclass
class Pruned:
    """A method's verdict on one weight.

    Attributes:
        mask: True where a weight is kept, shape (out_features, in_features).
        weight: new values of the kept weights, where the method updates them; None keeps them
            bit for bit.
        notes: what a user must know, e.g. that damping had to be raised.
    """

    mask: torch.Tensor
    weight: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)


class Method(Protocol):
    """A pruning method.

    One whose statistics are small (norms of features, not Gram matrices) says so in an attribute
    `small_statistics = True`: where those of the dense model are asked for, they are taken once and
    kept for all blocks, and the trials of a search are pruned without running the model.

    One that can prune by groups (``--pattern``) has a further method
    ``prune_pattern(weight, keep, of, statistics)``, which keeps `keep` of every `of` consecutive
    weights of a row, and of a last group that is shorter as many as
    `atp_core.methods.selection.tail_kept` says.

    One that takes more than 26 bytes of memory a weight while it prunes says how many in an
    attribute `work_bytes`, so that ``--max-memory`` leaves room for it.
    """

    @property
    def name(self) -> str:
        """The name users write."""

    @property
    def calibrated(self) -> bool:
        """Whether the method takes statistics of activations."""

    def statistics(self, in_features: int, device: torch.device) -> Statistics | None:
        """A fresh accumulator for inputs of width `in_features`, or None if not calibrated.

        Weights that see the same inputs share one accumulator.
        """

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Choose the weights to cut.

        Args:
            weight: shape (out_features, in_features), float32; must not be modified.
            rate: share of the weights to set to zero, in [0, 1]; met to within one weight.
            statistics: what `statistics` accumulated; None if not calibrated, or if the model
                never used the weight (an expert without tokens).

        Raises:
            NumericalError: the method cannot decide, e.g. a factorization fails for good.
        """
