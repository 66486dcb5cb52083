"""Diagnosis of a model: errors over depth for several allocations, and how errors grow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ._contenders import Contender
from ._session import Session
from ._workflow import Pruning
from .diagnosed import DiagnosedAllocation, DiagnosedSchedule, DiagnoseResult
from .engine.errors import measure_errors
from .errors import AtpError, UsageError
from .recipe import Recipe
from .records import Schedule
from .results import peak_memory_bytes
from .trials.journal import Journal

__all__ = ["Diagnosing"]

_STEP = 0.1
"""How far from S the other sparsities lie where none are named."""

_ELSEWHERE = {
    "allocation": "name it among the allocations",
    "allocation_options": "write them behind the name: allocations owl:lambda=0.1",
    "schedule": "name its file among the allocations",
    "beta_step": "the sweep over β has a number of points instead",
}
"""Fields of a recipe that a diagnosis does not take, and what it takes instead."""

_ATP = Contender("atp", {"allocation": "atp"})


class Diagnosing:
    """A diagnosis, from the request to its result.

    Args:
        session: the model, and a recipe with S and what all allocations have in common.
        entrants: the allocations; uniform first.
        sparsities: further sparsities to give ATP's schedule at; None is S ± 0.1.
        points: how many β the objective is measured at; 0 measures none.

    Raises:
        UnknownNameError: an allocation is not on offer.
        UsageError: a setting is wrong, or has no place in a diagnosis.
    """

    def __init__(
        self,
        session: Session,
        entrants: Sequence[Contender],
        sparsities: Sequence[float] | None,
        points: int,
    ) -> None:
        recipe = session.recipe
        for name, remedy in _ELSEWHERE.items():
            if name in recipe.model_fields_set:
                raise UsageError(f"a diagnosis takes no {name}; {remedy}")
        rates = recipe.sparsity.values() if isinstance(recipe.sparsity, Mapping) else []
        if recipe.sparsity == 0.0 or 0.0 in rates:
            raise UsageError("at sparsity 0 there are no errors to diagnose; give one above 0")
        if points == 1 or points < 0:
            raise UsageError(f"a sweep over β takes 2 points or more, not {points}")
        self._session = session
        self._entrants = entrants
        self._points = points
        # Wrong names and settings are told before anything costly happens.
        self._recipes = {one.label: self._recipe(one, recipe.sparsity) for one in entrants}
        self._atp = [self._recipe(_ATP, rate) for rate in _around(recipe.sparsity, sparsities)]
        self._main = Journal(None, {})

    def _recipe(self, entrant: Contender, sparsity: Any) -> Recipe:
        given = self._session.recipe
        asked = given.beta if "beta" in given.model_fields_set else "auto"
        beta = "auto" if asked == "search" else asked
        return entrant.recipe(self._session, {"beta": beta, "sparsity": sparsity})

    def run(self) -> DiagnoseResult:
        """Measure everything; the weights are left as they were.

        Raises:
            AtpError: no allocation could be measured, or the sweep over β fails.
        """
        started = time.perf_counter()
        session = self._session
        atp = Pruning(session.again(self._recipe(_ATP, session.recipe.sparsity)), self._main)
        self._check_betas()
        calibration = session.calibration
        sweep = atp.sweep(self._points) if self._points else None
        growth, growth_error = None, ""
        try:
            growth = atp.measure()
        except AtpError as error:
            growth_error = str(error)
        allocations: list[DiagnosedAllocation] = []
        failures: list[AtpError] = []
        with session.progress.task("allocations", len(self._recipes)) as advance:
            for label, recipe in self._recipes.items():
                allocations.append(self._measure(label, recipe, failures))
                advance(label)
        if len(failures) == len(allocations):
            raise failures[0]
        schedules = sorted(map(self._at, self._atp), key=lambda one: one.sparsity)
        session.restore()
        return DiagnoseResult(
            source=session.source.text,
            plugin=session.plugin,
            method=session.recipe.method,
            sparsity=session.target(session.chains),
            samples=calibration.samples,
            calibration=calibration.dataset,
            allocations=allocations,
            schedules=schedules,
            growth=growth,
            growth_error=growth_error,
            beta_limit=session.beta_limit(session.chains),
            sweep=sweep,
            environment={"atp-prune": version("atp-prune"), "torch": version("torch")},
            seconds=time.perf_counter() - started,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _check_betas(self) -> None:
        """Refuse a β that was given and is illegal at S, which is no fault of the model."""
        for recipe in self._recipes.values():
            pruning = Pruning(self._session.again(recipe), self._main)
            if pruning.takes_beta and recipe.beta != "auto":
                _schedule(pruning, recipe)

    def _measure(
        self, label: str, recipe: Recipe, failures: list[AtpError]
    ) -> DiagnosedAllocation:
        """The errors of one allocation; one that does not suit the model says why."""
        started = time.perf_counter()
        session = self._session.again(recipe)
        try:
            schedule = _schedule(Pruning(session, self._main), recipe)
            session.restore()
            blocks = measure_errors(
                session.chains,
                schedule,
                session.method(),
                session.calibration,
                device=session.device,
                progress=session.progress,
                dense_inputs=recipe.inputs == "dense",
            )
        except AtpError as error:
            failures.append(error)
            return DiagnosedAllocation(label, error=str(error))
        finally:
            self._session.learn(session)
        return DiagnosedAllocation(label, schedule, blocks, time.perf_counter() - started)

    def _at(self, recipe: Recipe) -> DiagnosedSchedule:
        """ATP at another sparsity, where β is measured anew."""
        session = self._session.again(recipe)
        same = recipe.sparsity == self._session.recipe.sparsity
        target = session.target(session.chains)
        try:
            pruning = Pruning(session, self._main if same else Journal(None, {}))
            return DiagnosedSchedule(target, _schedule(pruning, recipe))
        except AtpError as error:
            return DiagnosedSchedule(target, error=str(error))


def _schedule(pruning: Pruning, recipe: Recipe) -> Schedule:
    if pruning.searches:
        return pruning.search().schedule
    if not pruning.takes_beta:
        return pruning.schedule()
    beta = pruning.measure()["beta"] if isinstance(recipe.beta, str) else recipe.beta
    return pruning.schedule(beta)


def _around(sparsity: Any, named: Sequence[float] | None) -> list[Any]:
    """The sparsities to give ATP's schedule at, S among them."""
    if named is not None:
        return [sparsity, *(rate for rate in dict.fromkeys(named) if rate != sparsity)]
    steps = (0.0, -_STEP, _STEP)
    if isinstance(sparsity, Mapping):
        found = [{chain: _moved(rate, step) for chain, rate in sparsity.items()} for step in steps]
        return [rates for rates in found if all(0.0 < rate < 1.0 for rate in rates.values())]
    return [rate for rate in (_moved(sparsity, step) for step in steps) if 0.0 < rate < 1.0]


def _moved(rate: float, step: float) -> float:
    # 0.7 − 0.1 is to read 0.6.
    return round(rate + step, 12)
