"""What `tune` returns. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atp_core.evaluation.comparison import Comparison
from atp_core.records import Metric

__all__ = ["TuneResult"]


@dataclass(frozen=True)
class TuneResult:
    """What a recovery training did.

    Attributes:
        source: the pruned model.
        plugin: the plugin that handles it.
        mode: "lora" or "full".
        steps: optimizer steps.
        dataset: what it was trained on.
        samples: different samples in it.
        trained: parameters that were trained; of masked weights only the kept ones count.
        losses: of every step, in nats.
        sparsity_before: share of the prunable weights that was zero.
        sparsity: share that is zero now; not less.
        metrics: "before" and "after" → name → figure on the report split; empty where it was not
            asked for.
        comparisons: each figure after training against the one before, paired by document or
            image.
        seconds: wall time.
        output: the directory that was written.
        notes: what a user must know.
    """

    source: str
    plugin: str
    mode: str
    steps: int
    dataset: str
    samples: int
    trained: int
    losses: Sequence[float] = field(repr=False)
    sparsity_before: float
    sparsity: float
    metrics: Mapping[str, Mapping[str, Metric]]
    comparisons: Sequence[Comparison]
    seconds: float
    output: Path
    notes: Sequence[str] = ()

    @property
    def loss_first(self) -> float:
        """Mean loss of the first tenth of the steps."""
        return self._mean(self.losses[: max(1, len(self.losses) // 10)])

    @property
    def loss_last(self) -> float:
        """Mean loss of the last tenth of the steps."""
        return self._mean(self.losses[-max(1, len(self.losses) // 10) :])

    @staticmethod
    def _mean(losses: Sequence[float]) -> float:
        return sum(losses) / len(losses)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "source": self.source,
            "plugin": self.plugin,
            "mode": self.mode,
            "steps": self.steps,
            "dataset": self.dataset,
            "samples": self.samples,
            "trained_parameters": self.trained,
            "loss_first": self.loss_first,
            "loss_last": self.loss_last,
            "losses": list(self.losses),
            "sparsity_before": self.sparsity_before,
            "sparsity_achieved": self.sparsity,
            "metrics": {
                when: {name: asdict(metric) for name, metric in metrics.items()}
                for when, metrics in self.metrics.items()
            },
            "comparisons": [asdict(one) for one in self.comparisons],
            "seconds": self.seconds,
            "output": str(self.output),
            "notes": list(self.notes),
        }
