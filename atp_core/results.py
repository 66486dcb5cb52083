"""What the functions of the Python API return, and what `--json` prints."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .engine.pruning import PruneReport
from .evaluation.comparison import Comparison
from .evaluation.schema import (
    ComparisonRecord,
    EvaluationRecord,
    MetricRecord,
    ModelRecord,
    RuntimeRecord,
    TaskRecord,
)
from .recipe import without_folders
from .records import Beta, Chain, Metric, Observations, Schedule
from .trials import Trial

__all__ = [
    "EvaluateResult",
    "InspectResult",
    "Metrics",
    "PlanResult",
    "PruneResult",
    "SearchResult",
    "Sweep",
    "metrics_from_dict",
    "metrics_to_dict",
    "peak_memory_bytes",
]

Metrics = Mapping[str, Metric]


def peak_memory_bytes() -> int:
    """Peak resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def metrics_to_dict(metrics: Metrics) -> dict[str, Any]:
    """Metrics by name as JSON-ready data."""
    return {name: asdict(metric) for name, metric in metrics.items()}


def metrics_from_dict(data: Mapping[str, Any]) -> dict[str, Metric]:
    """The inverse of `metrics_to_dict`."""
    return {name: Metric(**fields) for name, fields in data.items()}


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured of one model, and how it compares with others.

    Attributes:
        source: the model.
        plugin: the plugin that handles it.
        metrics: figures by name; those of tasks as "TASK/METRIC".
        seconds: wall time.
        tasks: task → its version, the hash of its documents, and the number of examples.
        provenance: what the plugin knows of where the model came from.
        base_model: its name on the hub, if it has one.
        others: the models that it was compared with.
        comparisons: its figures against theirs, paired by document or image.
        observations: metric → what it was made of; several where it is the mean of tasks.
        settings: what was asked for.
        environment: versions, machine and seed.
        command: the command that repeats it.
        runtime: what executed the model, and which layers ran sparse; empty where torch did.
    """

    source: str
    plugin: str
    metrics: Metrics
    seconds: float
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    others: Sequence[EvaluateResult] = ()
    comparisons: Sequence[Comparison] = ()
    observations: Mapping[str, Sequence[Observations]] = field(default_factory=dict, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    runtime: Mapping[str, Any] = field(default_factory=dict)

    def record(self, *, portable: bool = False) -> EvaluationRecord:
        """The result in the form of its schema.

        Args:
            portable: absolute paths shortened to their last part, for publishing.
        """
        return EvaluationRecord(
            **self._model(portable),
            others=[ModelRecord(**other._model(portable)) for other in self.others],
            comparisons=[
                ComparisonRecord(
                    **{**asdict(one), "reference": _short(one.reference, portable)}
                )
                for one in self.comparisons
            ],
            settings=dict(self.settings),
            environment=dict(self.environment),
            command=self.command,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _model(self, portable: bool) -> dict[str, Any]:
        return {
            "source": _short(self.source, portable),
            "plugin": self.plugin,
            "base_model": self.base_model,
            "provenance": dict(self.provenance),
            "metrics": {name: MetricRecord.of(metric) for name, metric in self.metrics.items()},
            "tasks": {name: TaskRecord(**task) for name, task in self.tasks.items()},
            "seconds": self.seconds,
            "runtime": RuntimeRecord(**self.runtime) if self.runtime else None,
        }

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return self.record().model_dump(mode="json")


def _short(text: str, portable: bool) -> str:
    return without_folders(text) if portable else text


@dataclass(frozen=True)
class InspectResult:
    """The chains of a model and the zeros found in them.

    Attributes:
        zeros: block name → weights that are zero; empty where no weights were read.
        patterns: block name → the N:M patterns that all its weights keep to, of M = 4, 8 and 16;
            those with N < M only.
    """

    source: str
    plugin: str
    reason: str
    chains: Sequence[Chain]
    total_parameters: int
    zeros: Mapping[str, int] = field(default_factory=dict)
    patterns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        prunable = sum(chain.parameters for chain in self.chains)
        zeros = sum(self.zeros.values()) if self.zeros else None
        return {
            "source": self.source,
            "plugin": self.plugin,
            "reason": self.reason,
            "parameters": self.total_parameters,
            "prunable_parameters": prunable,
            "sparsity": None if zeros is None else zeros / prunable,
            "chains": [
                {
                    "name": chain.name,
                    "dense": dict(chain.dense),
                    "blocks": [
                        {
                            "name": block.name,
                            "parameters": block.parameters,
                            "weights": [
                                {"name": weight.name, "shape": list(weight.shape)}
                                for weight in block.weights
                            ],
                            **(
                                {
                                    "sparsity": self.zeros[block.name] / block.parameters,
                                    "patterns": list(self.patterns.get(block.name, ())),
                                }
                                if block.name in self.zeros
                                else {}
                            ),
                        }
                        for block in chain.blocks
                    ],
                }
                for chain in self.chains
            ],
        }


@dataclass(frozen=True)
class PlanResult:
    """What a run would do, worked out before any weight is loaded.

    Attributes:
        schedules: label → schedule, e.g. the flattest and the steepest that may be tried.
        trials: β the search starts with.
        most_trials: how many trials the search may need at most.
        beta_limit: largest legal β.
        memory_bytes: estimate of the peak resident size.
        memory_parts: what it is made of, in bytes, where weights are streamed.
        seconds: estimate of the wall time on this machine, or None without data to go by.
        notes: what a user must know of the plan.
    """

    source: str
    plugin: str
    reason: str
    method: str
    chains: Sequence[Chain]
    schedules: Mapping[str, Schedule]
    trials: Sequence[float]
    most_trials: int
    beta_limit: float
    samples: int | None
    seqlen: int | None
    memory_bytes: int
    seconds: float | None
    notes: Sequence[str] = ()
    memory_parts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return {
            "source": self.source,
            "plugin": self.plugin,
            "reason": self.reason,
            "method": self.method,
            "chains": [
                {
                    "name": chain.name,
                    "parameters": chain.parameters,
                    "dense": dict(chain.dense),
                    "blocks": [
                        {"name": block.name, "parameters": block.parameters}
                        for block in chain.blocks
                    ],
                }
                for chain in self.chains
            ],
            "schedules": {label: s.to_dict() for label, s in self.schedules.items()},
            "trials": list(self.trials),
            "most_trials": self.most_trials,
            "beta_limit": self.beta_limit,
            "samples": self.samples,
            "seqlen": self.seqlen,
            "memory_bytes": self.memory_bytes,
            "memory_parts": dict(self.memory_parts),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class SearchResult:
    """A schedule and how it was found.

    Attributes:
        beta: its common difference, where it has one.
        beta_auto: what `--beta auto` measured, where it was asked for.
    """

    source: str
    plugin: str
    method: str
    schedule: Schedule
    objective: str
    higher_is_better: bool
    trials: Sequence[Trial]
    seconds: float
    beta_limit: float
    beta_auto: Mapping[str, Any] | None = None

    @property
    def beta(self) -> Beta | None:
        """The common difference of the schedule; by chain where they differ."""
        return self.schedule.beta

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "source": self.source,
            "plugin": self.plugin,
            "method": self.method,
            "allocation": self.schedule.allocation,
            "sparsity_target": self.schedule.sparsity,
            "beta": self.beta,
            "beta_limit": self.beta_limit,
            "beta_auto": self.beta_auto,
            "objective": {"name": self.objective, "higher_is_better": self.higher_is_better},
            "schedule": self.schedule.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "seconds": self.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        }


@dataclass(frozen=True)
class Sweep:
    """An objective against β.

    Attributes:
        objective: its name.
        higher_is_better: its direction.
        trials: one a β, in rising order.
    """

    objective: str
    higher_is_better: bool
    trials: Sequence[Trial]

    def to_json(self) -> dict[str, Any]:
        """The sweep as JSON-ready data."""
        return {
            "objective": {"name": self.objective, "higher_is_better": self.higher_is_better},
            "trials": [trial.to_dict() for trial in self.trials],
        }


@dataclass(frozen=True)
class PruneResult:
    """A pruned model and everything measured on the way.

    Attributes:
        search: the schedule and its trials.
        report: what was done to each block.
        metrics: "dense", "pruned" and, where it was measured, "uniform" → metrics by name on
            the report split.
        output: the directory written, or None.
        comparisons: the pruned model against "dense" and "uniform", paired by document or image.
        model: the pruned model, where the caller may want to go on with it.
    """

    search: SearchResult
    report: PruneReport
    metrics: Mapping[str, Metrics]
    seconds: float
    output: Path | None
    comparisons: Sequence[Comparison] = ()
    notes: Sequence[str] = ()
    total_parameters: int = 0
    bytes_on_disk: int | None = None
    model: Any = field(default=None, repr=False)

    @property
    def schedule(self) -> Schedule:
        """The rates the model was pruned to."""
        return self.search.schedule

    @property
    def beta(self) -> Beta | None:
        """The common difference of the schedule, where it has one; by chain where they differ."""
        return self.search.beta

    @property
    def sparsity(self) -> float:
        """Achieved share of zeros in the prunable weights."""
        return self.report.achieved

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        chains: dict[str, list[dict[str, Any]]] = {}
        for block in self.report.blocks:
            chains.setdefault(block.chain, []).append(
                {
                    "name": block.name,
                    "rate": block.rate,
                    "achieved": block.achieved,
                    "parameters": block.parameters,
                    **({"notes": list(block.notes)} if block.notes else {}),
                }
            )
        return {
            **self.search.to_json(),
            "sparsity_achieved": self.sparsity,
            "sparsity_unweighted": sum(b.achieved for b in self.report.blocks)
            / len(self.report.blocks),
            "chains": [{"name": name, "blocks": blocks} for name, blocks in chains.items()],
            "metrics": {who: metrics_to_dict(found) for who, found in self.metrics.items()},
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "notes": list(self.notes),
            "seconds": self.seconds,
            "total_parameters": self.total_parameters,
            "bytes_on_disk": self.bytes_on_disk,
            "output": None if self.output is None else str(self.output),
        }
