"""What a page takes from ``atp.json``.

Every field has a default but those that a figure cannot be shown without: files of earlier and of
later releases lack some and have others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ...evaluation.schema import ComparisonRecord
from ...records import Metric

__all__ = [
    "Auto",
    "BlockErrors",
    "BlockResult",
    "ChainResult",
    "MetricsBy",
    "Objective",
    "Outcome",
    "TrialsOf",
]


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class BlockResult(_Record):
    """What was done to a block."""

    name: str
    rate: float
    achieved: float | None = None
    parameters: int | None = None
    notes: list[str] = []


class ChainResult(_Record):
    """What was done to a chain."""

    name: str
    blocks: list[BlockResult]


class Objective(_Record):
    """What a search went by."""

    name: str = ""
    higher_is_better: bool = False


class BlockErrors(_Record):
    """Squared errors at the output of a block, and the squared norm of the dense output."""

    chain: str
    name: str
    total: float
    fresh: float
    norm: float


class Auto(_Record):
    """What ``--beta auto`` measured."""

    beta: float | dict[str, float]
    closed_form: float | dict[str, float] | None = None
    growth: dict[str, float] = {}
    slope: dict[str, float] = {}
    drift: dict[str, float] = {}
    blocks: list[BlockErrors] = []


class Outcome(_Record):
    """The report of ``atp.json``."""

    plugin: str = ""
    method: str = ""
    allocation: str = ""
    sparsity_target: float | None = None
    sparsity_achieved: float | None = None
    sparsity_unweighted: float | None = None
    beta: float | dict[str, float] | None = None
    beta_limit: float | None = None
    beta_auto: Auto | None = None
    objective: Annotated[Objective, BeforeValidator(_or_empty)] = Objective()
    chains: list[ChainResult] = []
    comparisons: list[ComparisonRecord] = []
    notes: list[str] = []
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    total_parameters: int = 0
    bytes_on_disk: int | None = None


class _Trial(_Record):
    beta: float | dict[str, float]
    objective: float
    seconds: float = 0.0
    stage: str = "search"
    samples: int = 0


class TrialsOf(_Record):
    """The trials of ``atp.json``."""

    trials: list[_Trial]


class MetricsBy(_Record):
    """The metrics of ``atp.json``: who → name → metric."""

    metrics: Mapping[str, Mapping[str, Metric]]
