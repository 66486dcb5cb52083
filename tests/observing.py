"""What holds of the observations of every evaluation, computed apart from the project."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from atp_core.records import Evaluation, Observations

__all__ = ["check_observations", "summary"]


def summary(made_of: Observations) -> float:
    """The figure that follows from observations."""
    weights = [1.0] * len(made_of.values) if made_of.weights is None else made_of.weights
    total = math.fsum(w * v for w, v in zip(weights, made_of.values, strict=True))
    mean = total / math.fsum(weights)
    return {"mean": mean, "percent": 100 * mean, "exp": math.exp(mean)}[made_of.summary]


def check_observations(found: Evaluation, names: Iterable[str]) -> None:
    """Exactly the metrics `names` have observations, and follow from them.

    Args:
        found: what was measured.
        names: of the metrics that are means.
    """
    assert set(found.observations) == set(names)
    for name, made_of in found.observations.items():
        assert len(made_of.ids) == len(made_of.values) > 0, name
        assert len(set(made_of.ids)) == len(made_of.ids), f"{name} has one identity twice"
        assert all(isinstance(value, float) for value in made_of.values), name
        assert made_of.weights is None or min(made_of.weights) > 0, name
        value = found.metric(name).value
        assert summary(made_of) == pytest.approx(value, rel=1e-9, abs=1e-12), name
