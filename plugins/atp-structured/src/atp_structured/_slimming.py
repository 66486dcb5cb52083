"""Core's search, with units of blocks in place of single weights."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from atp_core.engine.dense import DenseStatistics
from atp_core.engine.pruning import BlockReport, PruneReport
from atp_core.errors import DataError, ModelError
from atp_core.records import Schedule
from atp_core.session import Pruning, Session
from atp_core.trials.journal import Journal

from ._counts import Budget
from ._discover import discover
from ._importance import lowest, scores
from ._remove import mask, remove
from ._result import SlimBlock, SlimGroup

__all__ = ["Slimming"]


class Slimming(Pruning):
    """Finds a schedule as core does, while trials set the weights of whole units to zero.

    A model whose units are at zero computes what the smaller one does, so everything is measured
    on it and units are removed once, at the end. Units are ranked once too, on what the dense
    model shows on all calibration data.

    Args:
        session: the model, its data and its plugins.

    Raises:
        ModelError: nothing in the model can go.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session, Journal(None, {}))
        _ = session.snapshot  # taken while the weights are those that were loaded
        if not session.calibration.batches:
            raise DataError("blocks are tried out on calibration data, and there is none")
        self._cuttable = discover(session.chains, session.calibration)
        if not any(one.groups for one in self._cuttable):
            reasons = sorted({note for one in self._cuttable for note in one.notes})
            raise ModelError(
                f"no heads or channels of {session.source.text} can be removed: "
                f"{'; '.join(reasons)}; `atp prune` cuts single weights of it"
            )
        self._budgets = [
            Budget(one.block.module, one.block.weights, one.groups) for one in self._cuttable
        ]
        self._scores = self._rank()

    def _rank(self) -> list[list[torch.Tensor]]:
        """The importance of every unit, by block and group."""
        session, method = self._session, self._session.method()
        statistics = None
        if method.calibrated:
            statistics = DenseStatistics.take(
                session.chains,
                method,
                session.calibration,
                device=session.device,
                progress=session.progress,
            )
        found = []
        for one in self._cuttable:
            own = None if statistics is None else statistics.of(one.block)
            module, weights = one.block.module, one.block.weights
            with torch.inference_mode():
                found.append([scores(module, weights, group, own) for group in one.groups])
        return found

    def counts(self, schedule: Schedule) -> list[list[int]]:
        """Units of each group that go, by block."""
        rates = self._rates(schedule)
        return [
            budget.counts(rates[one.chain, one.block.name])
            for one, budget in zip(self._cuttable, self._budgets, strict=True)
        ]

    def prune(self, schedule: Schedule, title: str, samples: int | None = None) -> PruneReport:
        """Set the weights of the units that go to zero, in the dense model."""
        started = time.perf_counter()
        session = self._session
        session.restore()
        session.snapshot.stale = True
        session.loaded.pruned = True
        rates = self._rates(schedule)
        reports = []
        for position, counts in enumerate(self.counts(schedule)):
            one = self._cuttable[position]
            for group, units in self._gone(position, counts):
                mask(one.block.module, group, units, one.layers)
            gone = round(self._budgets[position].removed(counts))
            rate = rates[one.chain, one.block.name]
            reports.append(
                BlockReport(one.chain, one.block.name, rate, gone, one.block.parameters, one.notes)
            )
        return PruneReport(reports, time.perf_counter() - started)

    def remove(self, schedule: Schedule) -> tuple[list[SlimBlock], dict[str, dict[str, Any]]]:
        """Take the units out of the dense model for good.

        Returns:
            What each block lost, and module name → its attributes that changed.
        """
        session = self._session
        session.restore()
        rates = self._rates(schedule)
        blocks = []
        before = _attributes(session.loaded.model)
        for position, counts in enumerate(self.counts(schedule)):
            one, budget = self._cuttable[position], self._budgets[position]
            whole = sum(parameter.numel() for parameter in one.block.module.parameters())
            prunable = budget.total
            for group, units in self._gone(position, counts):
                remove(one.block.module, group, units)
            blocks.append(
                SlimBlock(
                    chain=one.chain,
                    name=one.block.name,
                    rate=rates[one.chain, one.block.name],
                    prunable=prunable,
                    removed=prunable - one.block.parameters,
                    parameters_dense=whole,
                    parameters=sum(p.numel() for p in one.block.module.parameters()),
                    groups=tuple(
                        SlimGroup(group.kind, group.name, group.units - gone, group.units)
                        for group, gone in zip(one.groups, counts, strict=True)
                    ),
                    notes=one.notes,
                )
            )
        session.loaded.pruned = True
        after = _attributes(session.loaded.model)
        changed = {
            name: {key: value for key, value in after[name].items() if before[name][key] != value}
            for name in after
        }
        return blocks, {name: found for name, found in changed.items() if found}

    def _gone(
        self, position: int, counts: Sequence[int]
    ) -> list[tuple[Any, torch.Tensor]]:
        """Each group of a block with its units that go."""
        groups, ranked = self._cuttable[position].groups, self._scores[position]
        return [
            (group, lowest(score, count))
            for group, score, count in zip(groups, ranked, counts, strict=True)
        ]

    def _rates(self, schedule: Schedule) -> Mapping[tuple[str, str], float]:
        return {
            (chain.name, block.name): rate
            for chain in self._session.chains
            for block, rate in zip(chain.blocks, schedule.of(chain), strict=True)
        }


def _attributes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Whole numbers and tuples of them among the attributes of every module: their sizes."""
    return {
        name: {key: value for key, value in vars(module).items() if _is_size(value)}
        for name, module in model.named_modules()
    }


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)
