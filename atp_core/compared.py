"""What `atp_core.compare` returns, and what ``atp compare --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .records import Metric, Schedule
from .results import metrics_to_dict

__all__ = ["CompareResult", "ComparedCell"]


@dataclass(frozen=True)
class ComparedCell:
    """One allocation at one sparsity with one method.

    Attributes:
        method: name of the pruning method.
        sparsity: target S.
        allocation: the allocation, as it was asked for.
        schedule: its rates; None where it failed.
        trials: those of its search, as `Trial.to_dict` gives them.
        search_seconds: wall time until the schedule was settled, all trials included.
        metrics: metric name → figure on the report split.
        against_uniform: paired comparisons with uniform sparsity, of the same method and S.
        error: why it failed on this model; empty where it did not.
    """

    method: str
    sparsity: float
    allocation: str
    schedule: Schedule | None = None
    trials: Sequence[Mapping[str, Any]] = ()
    search_seconds: float = 0.0
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    against_uniform: Sequence[Mapping[str, Any]] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON-ready data."""
        return {
            "method": self.method,
            "sparsity": self.sparsity,
            "allocation": self.allocation,
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            "trials": [dict(trial) for trial in self.trials],
            "search_seconds": self.search_seconds,
            "metrics": metrics_to_dict(self.metrics),
            "against_uniform": [dict(one) for one in self.against_uniform],
            "error": self.error,
        }


@dataclass(frozen=True)
class CompareResult:
    """Allocations side by side.

    Attributes:
        source: the model.
        plugin: the plugin that handled it.
        dense: metric name → figure of the dense model on the report split.
        cells: by method, then S, then allocation; uniform first.
        calibration: what the calibration data is, where a method takes any.
        environment: package → version.
        seconds: wall time of this call; cells taken up from an interrupted one cost none.
        peak_memory_bytes: peak resident size of the process.
    """

    source: str
    plugin: str
    dense: Mapping[str, Metric]
    cells: Sequence[ComparedCell]
    calibration: str | None
    environment: Mapping[str, str]
    seconds: float
    peak_memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "version": 1,
            "source": self.source,
            "plugin": self.plugin,
            "dense": metrics_to_dict(self.dense),
            "cells": [cell.to_json() for cell in self.cells],
            "calibration": self.calibration,
            "environment": dict(self.environment),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }
