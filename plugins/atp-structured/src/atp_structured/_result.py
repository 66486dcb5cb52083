"""What was made of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atp_core.records import LoadedModel, Metric
    from atp_core.results import SearchResult

__all__ = ["SlimBlock", "SlimGroup", "SlimResult"]


@dataclass(frozen=True)
class SlimGroup:
    """Heads or channels of one part of a block.

    Attributes:
        kind: "heads" or "channels". With grouped queries, "heads" counts those of keys and values,
            each with the query heads it serves.
        name: the part, inside the block.
        kept: how many are left.
        of: how many there were.
    """

    kind: str
    name: str
    kept: int
    of: int


@dataclass(frozen=True)
class SlimBlock:
    """What one block lost.

    Attributes:
        chain: name of its chain.
        name: name of the block.
        rate: the rate asked for.
        prunable: its prunable weights before.
        removed: how many of them are gone.
        parameters_dense: all its parameters before, with biases and norms.
        parameters: all of them after.
        groups: what is left of its heads and channels.
        notes: what could not go, and why.
    """

    chain: str
    name: str
    rate: float
    prunable: int
    removed: int
    parameters_dense: int
    parameters: int
    groups: Sequence[SlimGroup] = ()
    notes: Sequence[str] = ()

    @property
    def achieved(self) -> float:
        """Share of the block's prunable weights that is gone."""
        return self.removed / self.prunable if self.prunable else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON-ready data."""
        return {
            "chain": self.chain,
            "name": self.name,
            "rate": self.rate,
            "achieved": self.achieved,
            "prunable": self.prunable,
            "removed": self.removed,
            "parameters_dense": self.parameters_dense,
            "parameters": self.parameters,
            "groups": [vars(group) for group in self.groups],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class SlimResult:
    """A model without some of its heads and channels.

    Attributes:
        search: how the schedule was found.
        importance: what units were ranked by.
        blocks: what each block lost.
        parameters_dense: parameters of the whole model before, each counted once.
        parameters: the same after.
        metrics: "dense", "uniform" and "pruned" → metric name → figure on the report split.
        seconds: wall time of all of it.
        notes: what a user must know.
        output: the directory written, if any.
        loaded: the model, smaller, with what its plugin needs to go on.
    """

    search: SearchResult
    importance: str
    blocks: Sequence[SlimBlock]
    parameters_dense: int
    parameters: int
    metrics: Mapping[str, Mapping[str, Metric]]
    seconds: float
    notes: Sequence[str] = ()
    output: Path | None = None
    loaded: LoadedModel | None = field(default=None, repr=False)

    @property
    def model(self) -> Any:
        """The smaller module."""
        return None if self.loaded is None else self.loaded.model

    @property
    def achieved(self) -> float:
        """Share of all prunable weights that is gone."""
        total = sum(block.prunable for block in self.blocks)
        return sum(block.removed for block in self.blocks) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        search = self.search
        return {
            "source": search.source,
            "plugin": search.plugin,
            "importance": self.importance,
            "allocation": search.schedule.allocation,
            "beta": search.schedule.to_dict()["beta"],
            "sparsity_target": search.schedule.sparsity,
            "sparsity_achieved": self.achieved,
            "parameters_dense": self.parameters_dense,
            "parameters": self.parameters,
            "blocks": [block.to_dict() for block in self.blocks],
            "schedule": search.schedule.to_dict(),
            "objective": search.objective,
            "trials": [trial.to_dict() for trial in search.trials],
            "metrics": {
                who: {name: vars(metric) for name, metric in found.items()}
                for who, found in self.metrics.items()
            },
            "notes": list(self.notes),
            "seconds": self.seconds,
            "output": None if self.output is None else str(self.output),
        }
