"""Searching β: proposals, trials, the journal they are written to, and who runs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..allocation.betas import steepness
from ..records import Beta

if TYPE_CHECKING:
    from ..records import DataRequest, Evaluation, LoadedModel

__all__ = ["Executor", "Objective", "Trial", "best"]


C = TypeVar("C")


@dataclass(frozen=True)
class Trial:
    """One judged schedule.

    Attributes:
        beta: the common difference, by chain where they differ; None where a schedule has none.
        objective: the metric's value on the search split.
        seconds: wall time of pruning and judging.
        stage: "search" for trials on the calibration subset, "search CHAIN" where only the β of
            that chain was varied, "final" for those on all of the calibration data.
        samples: calibration samples the trial was pruned with.
        schedule: digest of the schedule.
        peak_memory_bytes: peak resident size of the process so far.
    """

    beta: Beta | None
    objective: float
    seconds: float
    stage: str
    samples: int
    schedule: str
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The trial as JSON-ready data."""
        return asdict(self)

    def cost(self, higher_is_better: bool) -> float:
        """The objective turned so that lower is better; NaN counts as infinitely bad."""
        if math.isnan(self.objective):
            return math.inf
        return -self.objective if higher_is_better else self.objective


def best(trials: Sequence[Trial], higher_is_better: bool) -> Trial:
    """The best trial; of equals, the one nearest to uniform."""
    return min(trials, key=lambda trial: (trial.cost(higher_is_better), steepness(trial.beta)))


class Objective(Protocol):
    """What a search optimizes, where none of the plugin's own metrics will do."""

    @property
    def name(self) -> str:
        """The name users write."""

    def prepare(self, loaded: LoadedModel, data: DataRequest) -> None:
        """Look at the dense model once, before anything is pruned."""

    def measure(self, loaded: LoadedModel, data: DataRequest) -> Evaluation:
        """Judge the pruned model on the search split; the first metric is the objective."""


class Executor(Protocol):
    """Runs the trials of one round of a search."""

    @property
    def name(self) -> str:
        """The name users write."""

    def run(self, judge: Callable[[C], Trial], candidates: Sequence[C]) -> Iterable[Trial]:
        """Judge every candidate; results in the order of the candidates."""
