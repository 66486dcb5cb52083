"""Allocations side by side on one model: one load, one set of calibration data."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ._contenders import Contender
from ._session import Session
from ._tasks import Found
from ._workflow import Pruning, identity
from .compared import ComparedCell, CompareResult
from .errors import AtpError
from .recipe import Recipe
from .records import Beta, Schedule
from .results import peak_memory_bytes
from .trials.journal import Journal

__all__ = ["Comparing"]


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
        return entrant.recipe(self._session, {"method": method, "sparsity": sparsity})

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
        cells: list[ComparedCell] = []
        dense = Pruning(session.again(self._first()), journal.within("dense/"))
        dense.report_metrics("dense", None)
        with session.progress.task("allocations", len(self._recipes)) as advance:
            for method, sparsity in self._grid:
                # Trials of equal schedules are made once, whoever asks for them.
                part = journal.within(f"{method}/{sparsity!r}/")
                reference: Found | None = None
                for entrant in self._entrants:
                    recipe = self._recipes[method, sparsity, entrant.label]
                    cell, found = self._cell(entrant, recipe, part, reference)
                    if entrant.label == "uniform":
                        reference = found
                    cells.append(cell)
                    advance(f"{method} {sparsity:g} {entrant.label}")
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
            session = self._session.again(recipe)
            pruning = Pruning(session, Journal(None, {}))
            beta: Beta | None = 0.0 if pruning.takes_beta else None
            if beta is not None and not isinstance(recipe.beta, str):
                beta = recipe.beta
            if recipe.schedule or recipe.allocation_options or beta:
                pruning.schedule(beta)
            self._session.learn(session)

    def _first(self) -> Recipe:
        return next(iter(self._recipes.values()))

    def _cell(
        self, entrant: Contender, recipe: Recipe, journal: Journal, reference: Found | None
    ) -> tuple[ComparedCell, Found | None]:
        session = self._session.again(recipe)
        who = entrant.label
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
            schedule = Schedule.from_dict(known["schedule"])
            pruning.report_metrics(who, schedule)
            found = pruning.found[who]
        except AtpError as error:
            # One allocation that does not suit the model must not cost the others their results.
            return ComparedCell(recipe.method, _rate(recipe), who, error=str(error)), None
        finally:
            self._session.learn(session)
        against = [] if reference is None else found.against(reference, "uniform", recipe.seed)
        return (
            ComparedCell(
                method=recipe.method,
                sparsity=_rate(recipe),
                allocation=who,
                schedule=schedule,
                trials=known["trials"],
                search_seconds=known["search_seconds"],
                metrics=found.metrics,
                against_uniform=[asdict(one) for one in against],
            ),
            found,
        )


def _rate(recipe: Recipe) -> float:
    assert isinstance(recipe.sparsity, float), "a comparison has one S for all chains"
    return recipe.sparsity
