"""What a unit is worth: the sum over all weights it takes along."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from atp_core.engine.observation import BlockStatistics
from atp_core.engine.statistics import ColumnNorms
from atp_core.errors import ModelError
from atp_core.records import PrunableWeight

from ._groups import Group

__all__ = ["IMPORTANCES", "lowest", "scores"]

IMPORTANCES = ("wanda", "magnitude")
"""Names of what units are ranked by; each is a pruning method of core that says what it needs."""


def scores(
    module: nn.Module,
    weights: Sequence[PrunableWeight],
    group: Group,
    statistics: BlockStatistics | None,
) -> torch.Tensor:
    """The importance of each unit, shape (units,).

    With statistics it is the sum of |W|·‖x‖ over the rows and columns of the unit, Wanda's score
    of a weight (Sun et al., ICLR 2024) summed up; without, their L2 norm.

    Args:
        module: the block's module, whole.
        weights: its prunable weights.
        group: the units.
        statistics: what the block's weights see; None where they are ranked by magnitude.

    Raises:
        ModelError: a weight's inputs are not those of its columns.
    """
    parts = dict(module.named_modules())
    total = torch.zeros(group.units, dtype=torch.float32)
    for member in group.members:
        for weight in weights:
            if weight.module is not parts[member.module] or weight.parameter != "weight":
                continue
            each = _each(weight, statistics)
            start = 0
            if member.side == "in":
                # A kernel has its k·k columns side by side, channel after channel.
                channels = int(member.index.max()) + 1
                each = each.sum(dim=0).view(channels, -1).sum(dim=1)
            else:
                each = each.sum(dim=1)
                start = weight.rows[0] if weight.rows is not None else 0
            index = member.index - start
            inside = (index >= 0) & (index < len(each))
            total += (each[index.clamp(0, len(each) - 1)] * inside).sum(dim=1)
    return total if statistics is not None else total.sqrt()


def _each(weight: PrunableWeight, statistics: BlockStatistics | None) -> torch.Tensor:
    """What every entry of a weight counts, shape (out_features, in_features)."""
    matrix = weight.matrix().float().cpu()
    if statistics is None:
        return matrix.square()
    own = statistics.of(weight)
    if own is None or not own.tokens:
        raise ModelError(
            f"no calibration token reached {weight.name}; use more samples, or "
            "--importance magnitude"
        )
    assert isinstance(own, ColumnNorms)
    norms = (own.squares / own.sequences).sqrt().cpu()
    if len(norms) != matrix.shape[1]:
        raise ModelError(
            f"the inputs of {weight.name} are not those of its columns; use --importance magnitude"
        )
    return matrix.abs() * norms


def lowest(score: torch.Tensor, count: int) -> torch.Tensor:
    """The units of lowest score in rising order of their number; of equals the first ones."""
    return torch.sort(score, stable=True).indices[:count].sort().values
