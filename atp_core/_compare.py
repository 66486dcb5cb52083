"""Allocations side by side on one model: one load, one set of calibration data."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from ._contenders import Contender
from ._elsewhere import Work
from ._session import Session
from ._tasks import Found, recall
from ._workflow import Pruning, identity
from .compared import ComparedCell, CompareResult
from .errors import AtpError
from .recipe import Recipe
from .records import Beta, Schedule
from .results import peak_memory_bytes
from .trials.journal import Journal

__all__ = ["Comparing"]

_Place = tuple[str, float, str]
"""Method, sparsity and allocation of a cell."""


class Comparing:
    """A comparison, from the request to its result.

    Args:
        session: the model, and a recipe with what all cells have in common.
        entrants: the allocations.
        sparsities: the S to prune to.
        methods: the pruning methods.
    """

    def __init__(
        self,
        session: Session,
        entrants: Sequence[Contender],
        sparsities: Sequence[float],
        methods: Sequence[str],
    ) -> None:
        self._session = session
        self._entrants = entrants
        self._grid = list(itertools.product(methods, sparsities))
        # Wrong names and settings are told before anything costly happens.
        self._recipes = {
            (method, sparsity, entrant.label): self._recipe(method, sparsity, entrant)
            for method, sparsity in self._grid
            for entrant in entrants
        }
        for recipe in self._recipes.values():
            session.plugins.offers("methods").check(recipe.method)
            session.plugins.offers("allocators").check(recipe.allocation)

    def _recipe(self, method: str, sparsity: float, entrant: Contender) -> Recipe:
        # The executor does whole cells; the trials of a cell are made where the cell is.
        alone = {"executor": "local", "executor_options": {}}
        return entrant.recipe(self._session, {"method": method, "sparsity": sparsity, **alone})

    def identity(self) -> dict[str, Any]:
        """What must be equal for two comparisons to be the same one, cells aside."""
        common = identity(self._session)
        for cell in ("method", "sparsity", "allocation", "allocation_options", "schedule"):
            common.pop(cell, None)
        return common

    def run(self, journal: Journal) -> CompareResult:
        """Fill every cell that the journal does not have.

        Raises:
            UsageError: a setting of an allocation, a schedule file or β is wrong.
        """
        started = time.perf_counter()
        session = self._session
        self._try_settings()
        dense = Pruning(session.again(self._first()), journal.within("dense/"))
        dense.report_metrics("dense", None)
        with contextlib.closing(session):
            errors = self._fill(journal)
        cells = list(self._cells(journal, errors))
        session.restore()
        calibration = session.calibration if session.method().calibrated else None
        return CompareResult(
            source=session.source.text,
            plugin=session.plugin,
            dense=dense.found["dense"].metrics,
            cells=cells,
            calibration=None if calibration is None else calibration.dataset,
            environment={"atp-prune": version("atp-prune"), "torch": version("torch")},
            seconds=time.perf_counter() - started,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _try_settings(self) -> None:
        """Ask for the schedules of what the user has set, before anything is pruned.

        Raises:
            UsageError: a setting is wrong, for one of the sparsities or all.
        """
        for (method, sparsity), entrant in itertools.product(self._grid, self._entrants):
            recipe = self._recipes[method, sparsity, entrant.label]
            given = not isinstance(recipe.beta, str)
            if not (recipe.schedule or recipe.allocation_options or given):
                continue
            session = self._session.again(recipe)
            pruning = Pruning(session, Journal(None, {}))
            beta: Beta = 0.0 if isinstance(recipe.beta, str) else recipe.beta
            pruning.schedule(beta if pruning.takes_beta else None)
            self._session.learn(session)

    def _first(self) -> Recipe:
        return next(iter(self._recipes.values()))

    def _fill(self, journal: Journal) -> dict[_Place, str]:
        """Have the executor fill the cells that the journal does not have.

        Returns:
            Why those could not be filled that could not.
        """
        errors: dict[_Place, str] = {}
        parts = {
            (method, sparsity): journal.within(_prefix(method, sparsity))
            for method, sparsity in self._grid
        }

        def here(job: CellJob) -> CellAnswer:
            # Trials of equal schedules are made once, whoever asks for them.
            part = parts[job.recipe.method, _rate(job.recipe)]
            return CellAnswer(fill_cell(self._session, job, part), {})

        remote = self._session.remote(self._session.executor)
        places: list[_Place] = []
        jobs: list[CellJob] = []
        with self._session.progress.task("allocations", len(self._recipes)) as advance:
            for (method, sparsity, label), recipe in self._recipes.items():
                place = (method, sparsity, label)
                part = parts[method, sparsity]
                if recall(part, f"report/{label}", recipe.tasks) and part.get(f"cell/{label}"):
                    advance(_told(place))
                    continue
                places.append(place)
                # What another process cannot look up goes with the job.
                its = ("trial/", f"cell/{label}", f"report/{label}")
                known = {k: v for k, v in part.entries().items() if remote and k.startswith(its)}
                jobs.append(CellJob(label, recipe, known))
            work = Work(self._session, here, _filling, identity)
            for position, answer in self._session.executor.run(work, jobs):
                place = places[position]
                part = parts[place[:2]]
                for key, result in answer.entries.items():
                    if part.get(key) is None:
                        part.put(key, result)
                if answer.error is not None:
                    errors[place] = answer.error
                advance(_told(place))
        return errors

    def _cells(self, journal: Journal, errors: Mapping[_Place, str]) -> Iterator[ComparedCell]:
        """The cells as the journal has them, in order."""
        for method, sparsity in self._grid:
            part = journal.within(_prefix(method, sparsity))
            reference: Found | None = None
            for entrant in self._entrants:
                who = entrant.label
                error = errors.get((method, sparsity, who))
                if error is not None:
                    yield ComparedCell(method, sparsity, who, error=error)
                    continue
                recipe = self._recipes[method, sparsity, who]
                known = part.get(f"cell/{who}")
                found = recall(part, f"report/{who}", recipe.tasks)
                assert known is not None and found is not None
                against = []
                if reference is not None:
                    against = found.against(reference, "uniform", recipe.seed)
                if who == "uniform":
                    reference = found
                yield ComparedCell(
                    method=method,
                    sparsity=sparsity,
                    allocation=who,
                    schedule=Schedule.from_dict(known["schedule"]),
                    trials=known["trials"],
                    search_seconds=known["search_seconds"],
                    metrics=found.metrics,
                    against_uniform=[asdict(one) for one in against],
                )


@dataclass(frozen=True)
class CellJob:
    """A cell to be filled, as data.

    Attributes:
        label: of the allocation.
        recipe: of the cell.
        known: what the journal has of it already, and of trials at its method and sparsity.
    """

    label: str
    recipe: Recipe
    known: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class CellAnswer:
    """What became of a cell.

    Attributes:
        error: why it could not be filled, or None.
        entries: what another process has found out, for the journal.
    """

    error: str | None
    entries: Mapping[str, Mapping[str, Any]]


def fill_cell(base: Session, job: CellJob, journal: Journal) -> str | None:
    """Search, prune and measure one cell in this process; all results go to the journal.

    Args:
        base: has the model, and what all cells have in common.
        job: the cell.
        journal: of the cells of one method and sparsity.

    Returns:
        Why it could not be done, or None. One allocation that does not suit the model must not
        cost the others their results.
    """
    session, who = base.again(job.recipe), job.label
    try:
        pruning = Pruning(session, journal)
        known = journal.get(f"cell/{who}")
        if known is None:
            began = time.perf_counter()
            search = pruning.search()
            spent = sum(trial.seconds for trial in search.trials)
            known = {
                "schedule": search.schedule.to_dict(),
                "trials": [trial.to_dict() for trial in search.trials],
                "objective": search.objective,
                # Trials answered from the journal cost what they cost when they were made.
                "search_seconds": max(time.perf_counter() - began, spent),
            }
            journal.put(f"cell/{who}", known)
        pruning.report_metrics(who, Schedule.from_dict(known["schedule"]))
    except AtpError as error:
        return str(error)
    finally:
        base.learn(session)
    return None


def _filling(session: Session) -> Callable[[CellJob], CellAnswer]:
    """What fills cells with a session of another process."""

    def fill(job: CellJob) -> CellAnswer:
        journal = Journal(None, {})
        for key, result in job.known.items():
            journal.put(key, result)
        error = fill_cell(session, job, journal)
        return CellAnswer(error, {**journal.entries()})

    return fill


def _prefix(method: str, sparsity: float) -> str:
    return f"{method}/{sparsity!r}/"


def _told(place: _Place) -> str:
    method, sparsity, label = place
    return f"{method} {sparsity:g} {label}"


def _rate(recipe: Recipe) -> float:
    assert isinstance(recipe.sparsity, float), "a comparison has one S for all chains"
    return recipe.sparsity
