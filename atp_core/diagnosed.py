"""What `atp_core.api.diagnose` returns, and what ``atp diagnose --json`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .engine.errors import BlockError
from .records import Schedule
from .results import Sweep

__all__ = ["ChainGrowth", "DiagnoseResult", "DiagnosedAllocation", "DiagnosedSchedule"]


@dataclass(frozen=True)
class DiagnosedAllocation:
    """One allocation at the sparsity that was asked for.

    Attributes:
        allocation: the allocation, as it was asked for.
        schedule: its rates; None where it failed.
        blocks: the error of every block; empty where it failed.
        seconds: wall time, that of its schedule included.
        error: why it failed on this model; empty where it did not.
    """

    allocation: str
    schedule: Schedule | None = None
    blocks: Sequence[BlockError] = ()
    seconds: float = 0.0
    error: str = ""

    def relative(self, chain: str) -> list[float]:
        """Error over depth: squared, relative to the squared dense output."""
        return [block.relative for block in self.blocks if block.chain == chain]

    def total(self, chain: str) -> float:
        """Σ L_i over the blocks of a chain, relative to the sum of their squared dense outputs."""
        own = [block for block in self.blocks if block.chain == chain]
        norm = sum(block.norm for block in own)
        return sum(block.error for block in own) / norm if norm > 0 else math.nan

    def last(self, chain: str) -> float:
        """Relative error of the last block of a chain; NaN where it has none."""
        return (self.relative(chain) or [math.nan])[-1]

    def to_json(self) -> dict[str, Any]:
        """The allocation as JSON-ready data."""
        chains = dict.fromkeys(block.chain for block in self.blocks)
        return {
            "allocation": self.allocation,
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            "chains": {
                chain: {"total": self.total(chain), "last": self.last(chain)} for chain in chains
            },
            "blocks": [block.to_dict() for block in self.blocks],
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True)
class DiagnosedSchedule:
    """The schedule of ATP at one sparsity.

    Attributes:
        sparsity: target S, over all chains.
        schedule: its rates; None where it failed.
        error: why it failed; empty where it did not.
    """

    sparsity: float
    schedule: Schedule | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The schedule as JSON-ready data."""
        return {
            "sparsity": self.sparsity,
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            "error": self.error,
        }


@dataclass(frozen=True)
class ChainGrowth:
    """Error growth of one chain.

    Attributes:
        chain: its name.
        growth: c, by which the error is multiplied from block to block.
        slope: a, the slope of the logarithm of a block's own error over its rate.
        fit: fields of `atp_core.engine.diagnosis.Fit`.
    """

    chain: str
    growth: float
    slope: float
    fit: Mapping[str, float | None]

    @property
    def beta(self) -> float:
        """ln(c)/a, negative where errors shrink with depth."""
        return math.log(self.growth) / self.slope


@dataclass(frozen=True)
class DiagnoseResult:
    """Reconstruction errors over depth, how they grow, and the β that follows.

    Attributes:
        source: the model.
        plugin: the plugin that handled it.
        method: name of the pruning method.
        sparsity: target S, over all chains.
        samples: calibration samples the errors were measured on.
        calibration: what the calibration data is.
        allocations: the allocations at S; uniform first.
        schedules: ATP at several sparsities, in rising order.
        growth: what ``--beta auto`` measures: fields of `atp_core.engine.diagnosis.Growth`, with
            "closed_form" and "recursion", the β that follow, and "beta", the β to take.
            None where it failed.
        growth_error: why it failed; empty where it did not.
        beta_limit: largest legal β at S.
        sweep: the objective against β, where it was asked for.
        environment: package → version.
        seconds: wall time.
        peak_memory_bytes: peak resident size of the process.
    """

    source: str
    plugin: str
    method: str
    sparsity: float
    samples: int
    calibration: str
    allocations: Sequence[DiagnosedAllocation]
    schedules: Sequence[DiagnosedSchedule]
    growth: Mapping[str, Any] | None
    growth_error: str
    beta_limit: float
    sweep: Sweep | None
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def chains(self) -> list[str]:
        """Names of the chains that were measured."""
        found = (block.chain for one in self.allocations for block in one.blocks)
        return list(dict.fromkeys(found))

    @property
    def chain_growth(self) -> list[ChainGrowth]:
        """Error growth, slope and fit of every chain of two blocks or more."""
        known = self.growth
        if known is None:
            return []
        return [
            ChainGrowth(chain, c, known["slope"][chain], known["fit"][chain])
            for chain, c in known["growth"].items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "version": 1,
            "source": self.source,
            "plugin": self.plugin,
            "method": self.method,
            "sparsity": self.sparsity,
            "samples": self.samples,
            "calibration": self.calibration,
            "allocations": [one.to_json() for one in self.allocations],
            "schedules": [one.to_json() for one in self.schedules],
            "growth": None if self.growth is None else dict(self.growth),
            "growth_error": self.growth_error,
            "betas": {one.chain: one.beta for one in self.chain_growth},
            "beta_limit": self.beta_limit,
            "sweep": None if self.sweep is None else self.sweep.to_json(),
            "environment": dict(self.environment),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }
