"""Measuring a model before and after its training, as ``atp eval`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atp_core.errors import DataError
from atp_core.evaluation.comparison import Comparison, compare_all
from atp_core.records import Metric, Observations
from atp_core.results import metrics_from_dict, metrics_to_dict
from atp_core.session import Session

from ._samples import Samples

__all__ = ["compared", "measured", "metrics_of"]


def measured(session: Session, samples: Samples) -> dict[str, Any]:
    """What the model of a session shows on the report split, as it is written to a journal.

    Raises:
        DataError: there is no report data, or some of it was trained on.
    """
    found = session.evaluate("report")
    if not found.metrics:
        raise DataError(
            f"{session.source.text} has no data to be measured on; give --report-data, or leave "
            "out --eval"
        )
    if shared := found.examples & samples.examples:
        raise DataError(
            f"{len(shared)} of {len(found.examples)} examples of the report split are in the "
            "training data too; figures on what was trained on mean nothing: give other data with "
            "--calibration or --report-data"
        )
    return {
        "metrics": metrics_to_dict({metric.name: metric for metric in found.metrics}),
        "observations": {name: asdict(one) for name, one in found.observations.items()},
    }


def metrics_of(data: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics in what `measured` gave."""
    return metrics_from_dict(data["metrics"])


def compared(
    after: Mapping[str, Any], before: Mapping[str, Any], seed: int
) -> Sequence[Comparison]:
    """Each figure against the one before training, paired by document or image."""

    def made_of(data: Mapping[str, Any]) -> dict[str, list[Observations]]:
        return {name: [Observations(**one)] for name, one in data["observations"].items()}

    return compare_all(
        metrics_of(after),
        metrics_of(before),
        made_of(after),
        made_of(before),
        "before training",
        seed,
    )
