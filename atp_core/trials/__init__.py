"""Searching: proposals, trials, the journal they are written to, and who runs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..allocation.betas import steepness
from ..records import Beta

if TYPE_CHECKING:
    from ..records import DataRequest, Evaluation, LoadedModel, Schedule

__all__ = ["Executor", "Objective", "Trial", "TrialJob", "best"]


J = TypeVar("J")
R = TypeVar("R")


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


@dataclass(frozen=True)
class TrialJob:
    """A trial to be made, as data: any process that has the model can make it.

    Attributes:
        schedule: the rates to prune to.
        beta: the common difference they came from, or None.
        stage: as in `Trial`.
        samples: calibration samples to prune with; None where the method takes none.
        title: what users see of it, e.g. "search: uniform".
    """

    schedule: Schedule
    beta: Beta | None
    stage: str
    samples: int | None
    title: str


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
    """Runs jobs that do not depend on each other: trials of a round, cells of a comparison.

    An executor may have three things more:

    - ``configure(options)``, called once before anything else with the options users give as
      ``--executor-options``. It raises `UsageError` for one that is unknown or wrong. Without it,
      options are refused.
    - ``close()``, called when there are no more jobs for now, also after an error or Ctrl-C: stop
      what was started. `run` may be called again afterwards.
    - ``remote = True``, where jobs run in other processes. A model in memory is then refused
      before anything is done.
    """

    @property
    def name(self) -> str:
        """The name users write."""

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterable[tuple[int, R]]:
        """Do every job once.

        Args:
            work: does a job. It uses the one model of its process: never call it from several
                threads. It can be pickled, and so can jobs and results. Unpickled in another
                process, it loads the model there when it is first called, and keeps it.
            jobs: what to do.

        Returns:
            The position of each job and its result, as jobs end, in any order. Each is written
            down before the next is asked for.

        Raises:
            Exception: what `work` raised; of several jobs that failed, for the first of them.
        """
